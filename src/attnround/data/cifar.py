"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): 32x32 colour images of things and animals.

50,000 training and 10,000 test images, in the files that torchvision downloads and checks.
"""

import copy
from typing import ClassVar

import torch
from timm.data import create_transform
from torchvision import datasets, transforms

from attnround.data.base import Calibration, ImageData, draw
from attnround.errors import InputError, reason

SIDE = 32  # pixels
PAD = 4  # pixels of the random shift in training, as in arXiv 1512.03385, section 4.2


class CIFAR10(ImageData):
    """Images [N, 3, H, W]: 32x32 where the model takes that, else by timm's evaluation transform for the model.

    root: where the files are, or go when they are downloaded. Calibration takes training images without their labels.
    """

    title: ClassVar[str] = "CIFAR-10"
    num_labels: ClassVar[int] = 10
    published: ClassVar[type[datasets.CIFAR10]] = datasets.CIFAR10

    def __init__(
        self,
        root: str,
        num_calibration: int = 1024,
        batch_size: int = 250,
        num_workers: int | None = None,
        limit: int | None = None,
        seed: int = 0,
        licence: str | None = None,
    ):
        super().__init__(num_calibration, batch_size, seed, limit, num_workers, licence)
        self.root = root

    def match(self, preprocessing: dict, num_classes: int) -> None:
        """Load the test images now: torchvision checks all the files with them, and downloads what is not there."""
        super().match(preprocessing, num_classes)
        channels, *size = preprocessing["input_size"]
        if channels != 3 or num_classes != self.num_labels:
            raise InputError(
                f"the model takes {channels} channels and has {num_classes} classes, {self.title} has 3 and "
                f"{self.num_labels}: give a model for it, as in model=timm model.name=resnet18 "
                f"model.num_classes={self.num_labels} model.checkpoint=<file>"
            )
        self.are_resized = size != [SIDE, SIDE]
        if not self.are_resized:  # timm's transform would enlarge them by 1/crop_pct, to crop them again
            normalise = transforms.Normalize(preprocessing["mean"], preprocessing["std"])
            self.transform = transforms.Compose([transforms.ToTensor(), normalise])
        else:
            self.transform = create_transform(**preprocessing, is_training=False)
        test = self._images(train=False)
        self.evaluation = self._limited(test, test.targets)

    def calibration(self) -> Calibration:
        train = self._images(train=True)
        source = f"{self.title}, {len(train):,} training images"
        indices = draw(len(train), self.num_calibration, self.seed, source)
        return Calibration(torch.stack([train[index][0] for index in indices]), indices, source, [])

    def training_sets(self) -> tuple[datasets.CIFAR10, datasets.CIFAR10]:
        """In training every image is shifted by up to four pixels and mirrored with probability a half."""
        plain = self._images(train=True)
        augmented = copy.copy(plain)  # one copy of the images for both
        shift = transforms.RandomCrop(SIDE, padding=PAD)
        augmented.transform = transforms.Compose([shift, transforms.RandomHorizontalFlip(), self.transform])
        return augmented, plain

    def _images(self, train: bool) -> datasets.CIFAR10:
        try:
            return self.published(self.root, train=train, transform=self.transform, download=True)
        except (RuntimeError, OSError) as error:
            raise InputError(
                f"{self.title} is not whole in data.root={self.root} and the download failed ({reason(error)}): unpack "
                f"{self.published.url} there, so that it holds the folder {self.published.base_folder}"
            ) from error


class CIFAR100(CIFAR10):
    """As CIFAR-10, with 100 classes."""

    title = "CIFAR-100"
    num_labels = 100
    published = datasets.CIFAR100
