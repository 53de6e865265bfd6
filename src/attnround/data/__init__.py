"""Data modules: evaluation images with labels, calibration images without."""

from attnround.data.base import Calibration, ImageData, draw, draw_balanced
from attnround.data.cifar import CIFAR10, CIFAR100
from attnround.data.fashion_mnist import FashionMNIST
from attnround.data.held_out import HeldOut
from attnround.data.image_folder import ImageFolder

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Calibration",
    "FashionMNIST",
    "HeldOut",
    "ImageData",
    "ImageFolder",
    "draw",
    "draw_balanced",
]
