"""Data modules: evaluation images, with labels as a rule, and calibration images without."""

from typing import TYPE_CHECKING

from attnround.lazy import lazily

if TYPE_CHECKING:
    from attnround.data.base import Calibration, ImageData, draw, draw_balanced
    from attnround.data.cifar import CIFAR10, CIFAR100
    from attnround.data.fashion_mnist import FashionMNIST
    from attnround.data.held_out import HeldOut
    from attnround.data.image_files import ImageFiles
    from attnround.data.image_folder import ImageFolder
    from attnround.data.labelled import LabelledPair
    from attnround.data.own import OwnData
    from attnround.data.photos import Photos
else:
    __getattr__ = lazily(  # torchvision, timm and Lightning are not for who brings his own images
        __name__,
        {
            "CIFAR10": "cifar",
            "CIFAR100": "cifar",
            "Calibration": "base",
            "FashionMNIST": "fashion_mnist",
            "HeldOut": "held_out",
            "ImageData": "base",
            "ImageFiles": "image_files",
            "ImageFolder": "image_folder",
            "LabelledPair": "labelled",
            "OwnData": "own",
            "Photos": "photos",
            "draw": "base",
            "draw_balanced": "base",
        },
    )

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Calibration",
    "FashionMNIST",
    "HeldOut",
    "ImageData",
    "ImageFiles",
    "ImageFolder",
    "LabelledPair",
    "OwnData",
    "Photos",
    "draw",
    "draw_balanced",
]
