"""Data of the user's own: any torch Dataset or LightningDataModule, made by functions that options name."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import pytorch_lightning as pl
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset, SubsetRandomSampler, WeightedRandomSampler

from attnround.data.base import Calibration, ImageData, draw, draw_balanced
from attnround.data.images import Labelled, UnclearError, batch_of, gather_images, labelled
from attnround.data.pixels import of_known_range
from attnround.errors import InputError, reason
from attnround.factory import made
from attnround.ranks import OwnBatches, own_items


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
        num_calibration: int | None = None,
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
            self._of_module("prepare_data")
            for stage in ("fit", "validate"):
                self._of_module("setup", stage)
            source = self._loader_of_module("val_dataloader")
            if shuffles(source):
                raise InputError(
                    f"data.factory={self.factory}: its val_dataloader shuffles, and models are compared image by "
                    "image: give shuffle=False"
                )
        elif not _indexed(source):
            raise InputError(
                f"data.factory={self.factory} gives a {type(source).__name__}: it must return a Dataset with a length, "
                "or a LightningDataModule"
            )
        self.evaluation = self._limited_set(source)
        with self._said_of("data.factory"):
            images, _ = next(iter(self.val_dataloader()), (None, None))
        if images is None:
            raise InputError(f"data.factory={self.factory} gives no image: there must be at least one")
        if list(images.shape[1:]) != list(preprocessing["input_size"]):
            raise InputError(
                f"data.factory={self.factory} gives images of {list(images.shape[1:])}, the model takes "
                f"{list(preprocessing['input_size'])}: resize them"
            )

    def calibration(self) -> Calibration:
        """A seeded draw of the images; of a loader, which has no places to draw, the first."""
        source, name = self._calibration_source()
        option = "data.calibration" if self.calibration_factory else "data.factory"
        if not _indexed(source) and not isinstance(source, DataLoader):
            what = f"{option} gives a {type(source).__name__} to calibrate on"
            raise InputError(f"{what}: it must return a Dataset with a length, or a module with a DataLoader")
        if not _indexed(source):
            with self._said_of(option):
                images = gather_images(source, self.num_calibration)
            draw(len(images), self.num_wanted(len(images)), self.seed, name)
            return Calibration(images, list(range(len(images))), name, [])
        indices = draw(len(source), self.num_wanted(len(source)), self.seed, name)
        drawn = Subset(self._prepared("data.calibration", source), indices)
        with self._said_of(option):
            images = gather_images(drawn, len(indices))
        return Calibration(images, indices, name, [])

    def val_dataloader(self) -> Labelled:
        if not _indexed(self.evaluation):
            return Labelled(OwnBatches(self.evaluation), num_classes=self.num_classes)
        dataset = own_items(self.evaluation, self.batch_size)
        loader = DataLoader(dataset, self.batch_size, num_workers=self.num_workers, collate_fn=batch_of)
        return Labelled(loader, num_classes=self.num_classes)

    def training_sets(self) -> tuple[Dataset, Dataset]:
        """One for both: what augments is the user's own Dataset."""
        if self.training_factory:
            source: Any = made("data.training", self.training_factory)
        elif self.module is not None:
            source = getattr(self._loader_of_module("train_dataloader"), "dataset", None)
        else:
            raise InputError("data.training is not given: give a function that returns a Dataset of labelled images")
        if not _indexed(source):
            raise InputError(f"data.training gives a {type(source).__name__}: it must return a Dataset with a length")
        prepared = Pairs(self._prepared("data.training", source))
        return prepared, prepared

    def _calibration_source(self) -> tuple[Any, str]:
        if self.calibration_factory:
            return made("data.calibration", self.calibration_factory), self.calibration_factory
        if self.module is not None:
            loader = self._loader_of_module("train_dataloader")
            dataset = getattr(loader, "dataset", None)
            return dataset if _indexed(dataset) else loader, f"the training images of {self.factory}"
        raise InputError(
            "data.calibration is not given: give a function that returns a Dataset of images to calibrate with, which "
            "need no labels and must not be those evaluated on"
        )

    def _of_module(self, name: str, *arguments: object) -> Any:
        """What a method of the user's data module gives. Raises InputError where it raises."""
        try:
            return getattr(self.module, name)(*arguments)
        except Exception as error:  # the user's own
            what = f"{type(error).__name__}: {reason(error)}"
            raise InputError(f"data.factory={self.factory}: its {name} raised {what}") from error

    def _loader_of_module(self, name: str) -> Any:
        """The one loader, or other iterable of batches, that a method of the user's data module gives."""
        found = self._of_module(name)
        if isinstance(found, list | tuple) and found and all(isinstance(each, DataLoader) for each in found):
            if len(found) > 1:
                raise InputError(f"data.factory={self.factory}: its {name} gives {len(found)} loaders: give one")
            found = found[0]
        if not isinstance(found, Iterable):
            raise InputError(f"data.factory={self.factory}: its {name} gives a {type(found).__name__}: give a loader")
        return found

    def _prepared(self, option: str, dataset: Dataset) -> "Items":
        from timm.data import create_transform

        mode = "L" if self.preprocessing["input_size"][0] == 1 else "RGB"
        return Items(option, dataset, create_transform(**self.preprocessing, is_training=False), mode)

    def _limited_set(self, source: Any) -> Any:
        """What is evaluated on: a Dataset, prepared; or, where there is no limit, the data module's loader as it is.

        Labels are those that the Dataset lists as `targets` or `labels`, or else each item's.
        """
        if self.limit is not None and not _indexed(source):
            source = getattr(source, "dataset", None)
            if not _indexed(source):
                what = f"data.limit={self.limit}: the validation images of {self.factory} are no Dataset with a length"
                raise InputError(f"{what}: leave it out")
        if not _indexed(source):
            return source
        prepared = self._prepared("data.factory", source)
        if self.limit is None:
            return prepared
        labels = getattr(source, "targets", getattr(source, "labels", None))
        if labels is None or len(labels) != len(source):
            pairs = Pairs(prepared)
            with self._said_of("data.factory"):
                labels = [pairs[index][1] for index in range(len(pairs))]
        return Subset(prepared, draw_balanced([int(each) for each in labels], self.limit, self.seed))

    @contextlib.contextmanager
    def _said_of(self, option: str) -> Iterator[None]:
        """Within, what cannot be told apart in a batch is said of the function that this option names."""
        try:
            yield
        except UnclearError as error:
            given = self.factory if option == "data.factory" else self.calibration_factory
            raise InputError(f"{option}={given}: {error.what}: give {error.give}") from error


class Items(Dataset):
    """The items of the user's Dataset, whose images are prepared for the model where they are PIL's.

    option: which named the Dataset; mode: PIL's, L or RGB. Raises InputError that names the item where the user's own
    code raises.
    """

    def __init__(self, option: str, items: Dataset, transform: Callable[[Image], Tensor], mode: str):
        self.option, self.items, self.transform, self.mode = option, items, transform, mode

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        try:
            item = self.items[index]
        except Exception as error:  # the user's own
            what = f"{self.option}: item {index} of {len(self)} raised {type(error).__name__}: {reason(error)}"
            raise InputError(what) from error
        if isinstance(item, Mapping):
            return {key: self._of(value) for key, value in item.items()}
        return tuple(self._of(value) for value in item) if isinstance(item, list | tuple) else self._of(item)

    def _of(self, value: object) -> object:
        return self.transform(of_known_range(value, self.mode, self.option)) if isinstance(value, Image) else value


class Pairs(Dataset):
    """The items of a Dataset as (image, label)."""

    def __init__(self, items: Dataset):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        images, labels = labelled(batch_of([self.items[index]]))
        return images[0], int(labels[0])


def shuffles(source: object) -> bool:
    """Whether a loader gives its images in another order each time, as far as its sampler says so."""
    samplers = [getattr(source, "sampler", None), getattr(getattr(source, "batch_sampler", None), "sampler", None)]
    return any(isinstance(each, RandomSampler | WeightedRandomSampler | SubsetRandomSampler) for each in samplers)


def _indexed(source: object) -> bool:
    return isinstance(source, Dataset) and isinstance(source, Sized)
