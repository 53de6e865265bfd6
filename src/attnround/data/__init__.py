"""Data modules: evaluation images with labels, calibration images without."""

from attnround.data.base import Calibration, ImageData, draw
from attnround.data.fashion_mnist import FashionMNIST
from attnround.data.image_folder import ImageFolder

__all__ = ["Calibration", "FashionMNIST", "ImageData", "ImageFolder", "draw"]
