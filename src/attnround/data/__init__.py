"""Data modules: evaluation images with labels, calibration images without."""

from attnround.lazy import lazily

PLACES = {
    "CIFAR10": "cifar",
    "CIFAR100": "cifar",
    "Calibration": "base",
    "FashionMNIST": "fashion_mnist",
    "HeldOut": "held_out",
    "ImageData": "base",
    "ImageFolder": "image_folder",
    "OwnData": "own",
    "LabelledPair": "labelled",
    "draw": "base",
    "draw_balanced": "base",
}
__all__ = list(PLACES)
__getattr__ = lazily(__name__, PLACES)  # torchvision, timm and Lightning are not for who brings his own images
