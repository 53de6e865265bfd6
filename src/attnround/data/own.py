"""Data of the user's own: any torch Dataset or LightningDataModule, made by functions that options name."""

from collections.abc import Callable, Mapping, Sized
from typing import Any

import pytorch_lightning as pl
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from attnround.data.base import Calibration, ImageData, draw, draw_balanced
from attnround.data.images import Labelled, gather_images, labelled
from attnround.errors import InputError
from attnround.factory import made


class OwnData(ImageData):
    """Data sets that functions of the user's own return.

    factory: returns the labelled images to evaluate on, a Dataset, or a LightningDataModule, whose validation images
    are evaluated and whose training images calibrate and train; calibration, training: functions that return a Dataset
    of images to calibrate with (labels are not looked at) and of labelled ones to train on; arguments: of the call of
    `factory`. An item is (image, label), or a dictionary with `label` or `labels` and one image. An image is a float
    tensor [C, H, W], normalised as the model takes it, or a PIL image, which timm's evaluation transform for the model
    prepares.
    """

    def __init__(
        self,
        factory: str,
        calibration: str | None = None,
        training: str | None = None,
        arguments: dict | None = None,
        num_calibration: int = 1024,
        batch_size: int = 64,
        num_workers: int | None = 0,
        limit: int | None = None,
        seed: int = 0,
        licence: str | None = None,
    ):
        super().__init__(num_calibration, batch_size, seed, limit, num_workers, licence)
        self.factory, self.arguments = factory, arguments
        self.calibration_factory, self.training_factory = calibration, training

    def match(self, preprocessing: dict, num_classes: int) -> None:
        """Make the data sets now, so that what is wrong with them is said before the work begins."""
        super().match(preprocessing, num_classes)
        source: Any = made("data.factory", self.factory, self.arguments)
        self.module = source if isinstance(source, pl.LightningDataModule) else None
        if self.module is not None:
            self.module.prepare_data()
            for stage in ("fit", "validate"):
                self.module.setup(stage)
            source = self.module.val_dataloader()
        elif not _indexed(source):
            raise InputError(
                f"data.factory={self.factory} gives a {type(source).__name__}: it must return a Dataset with a length, "
                "or a LightningDataModule"
            )
        self.evaluation = self._limited_set(self._prepared(source) if _indexed(source) else source)
        images, labels = next(iter(self.val_dataloader()))
        if list(images.shape[1:]) != list(preprocessing["input_size"]):
            raise InputError(
                f"data.factory={self.factory} gives images of {list(images.shape[1:])}, the model takes "
                f"{list(preprocessing['input_size'])}: resize them"
            )
        if int(labels.max()) >= num_classes:
            raise InputError(
                f"data.factory={self.factory} gives the label {int(labels.max())}, the model has {num_classes} "
                "outputs: labels are their places, from 0"
            )

    def calibration(self) -> Calibration:
        """A seeded draw of the images; of a loader, which has no places to draw, the first."""
        source, name = self._calibration_source()
        if not _indexed(source):
            images = gather_images(source, self.num_calibration)
            draw(len(images), self.num_calibration, self.seed, name)
            return Calibration(images, list(range(len(images))), name, [])
        indices = draw(len(source), self.num_calibration, self.seed, name)
        images = gather_images(DataLoader(Subset(self._prepared(source), indices), self.batch_size), len(indices))
        return Calibration(images, indices, name, [])

    def val_dataloader(self) -> Labelled:
        if not _indexed(self.evaluation):
            return Labelled(self.evaluation)
        return Labelled(DataLoader(self.evaluation, self.batch_size, num_workers=self.num_workers))

    def training_sets(self) -> tuple[Dataset, Dataset]:
        """One for both: what augments is the user's own Dataset."""
        if self.training_factory:
            source: Any = made("data.training", self.training_factory)
        elif self.module is not None:
            source = getattr(self.module.train_dataloader(), "dataset", None)
        else:
            raise InputError("data.training is not given: give a function that returns a Dataset of labelled images")
        if not _indexed(source):
            raise InputError(f"data.training gives a {type(source).__name__}: it must return a Dataset with a length")
        prepared = Pairs(self._prepared(source))
        return prepared, prepared

    def _calibration_source(self) -> tuple[Any, str]:
        if self.calibration_factory:
            return made("data.calibration", self.calibration_factory), self.calibration_factory
        if self.module is not None:
            loader = self.module.train_dataloader()
            dataset = getattr(loader, "dataset", None)
            return dataset if _indexed(dataset) else loader, f"the training images of {self.factory}"
        raise InputError(
            "data.calibration is not given: give a function that returns a Dataset of images to calibrate with, which "
            "need no labels and must not be those evaluated on"
        )

    def _prepared(self, dataset: Dataset) -> Dataset:
        if not _is_pil(dataset[0]):
            return dataset
        from timm.data import create_transform

        mode = "L" if self.preprocessing["input_size"][0] == 1 else "RGB"
        return Prepared(dataset, create_transform(**self.preprocessing, is_training=False), mode)

    def _limited_set(self, dataset: Any) -> Any:
        if self.limit is None or not _indexed(dataset):
            return dataset
        pairs = Pairs(dataset)
        labels = [pairs[index][1] for index in range(len(pairs))]
        return Subset(dataset, draw_balanced(labels, self.limit, self.seed))


class Prepared(Dataset):
    """The items of a Dataset whose images are PIL's, prepared for the model. mode: PIL's, L or RGB."""

    def __init__(self, items: Dataset, transform: Callable[[Image], Tensor], mode: str):
        self.items, self.transform, self.mode = items, transform, mode

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        item = self.items[index]
        if isinstance(item, Image):
            return self._of(item)
        if isinstance(item, Mapping):
            return {key: self._of(value) for key, value in item.items()}
        return tuple(self._of(value) for value in item)

    def _of(self, value: object) -> object:
        return self.transform(value.convert(self.mode)) if isinstance(value, Image) else value


class Pairs(Dataset):
    """The items of a Dataset as (image, label)."""

    def __init__(self, items: Dataset):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        images, labels = labelled(default_collate([self.items[index]]))
        return images[0], int(labels[0])


def _indexed(source: object) -> bool:
    return isinstance(source, Dataset) and isinstance(source, Sized)


def _is_pil(item: object) -> bool:
    values = item.values() if isinstance(item, Mapping) else item if isinstance(item, list | tuple) else [item]
    return any(isinstance(value, Image) for value in values)
