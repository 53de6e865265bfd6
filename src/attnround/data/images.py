"""Calibration images as people hold them: a tensor, a data set, a loader, any iterable of batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from attnround.errors import InputError, check_number, reason

NUM_IMAGES = 1024  # of the method's abstract, arXiv 2207.03088
BATCH_SIZE = 64  # in which a data set is read


def gather_images(source: object, num_images: int, images_of: Callable[[object], Tensor] | None = None) -> Tensor:
    """The first `num_images` images, [N, C, H, W] floats on the CPU; fewer where there are fewer.

    source: a tensor [N, C, H, W], which is not copied and must stay as it is, a Dataset, a DataLoader, a
    LightningDataModule or any iterable of batches. Of a batch that is a tuple the first part is taken, of a dictionary
    its only tensor of three dimensions or more; images_of: takes them out of any other. Signals and volumes have other
    dimensions behind N and C. Labels are not looked at.
    Raises InputError where there is nothing, or nothing that is images.
    """
    check_number("num_images", num_images, least=1, whole=True)
    if isinstance(source, Tensor):
        if not len(source):
            raise InputError("images are none: give at least one")
        return _checked(source[:num_images])
    if (
        hasattr(source, "train_dataloader") and hasattr(source, "setup") and hasattr(source, "prepare_data")
    ):  # a LightningDataModule
        source.prepare_data()
        source.setup("fit")
        source = source.train_dataloader()
    if isinstance(source, Dataset) and not isinstance(source, DataLoader):
        source = DataLoader(source, BATCH_SIZE, collate_fn=None if images_of else _images_alone)
    if not isinstance(source, Iterable) or isinstance(source, Mapping):
        kind = type(source).__name__
        raise InputError(f"images are a {kind}: give a tensor [N, C, H, W], a Dataset, a DataLoader or batches")
    found: list[Tensor] = []
    count = 0
    for batch in source:
        images = _checked(images_of(batch) if images_of else _images_of(batch))
        found.append(images[: num_images - count].clone())  # the next batch may come in the same memory
        count += len(found[-1])
        if count == num_images:
            break
    if not count:
        raise InputError("images gave no batch: give at least one image")
    _check_shapes(each.shape[1:] for each in found)
    return torch.cat(found)


class UnclearError(InputError):
    """Nothing says what the images or labels of a batch are.

    what: is wrong; give: what would be clear; or_function: which argument takes them out of such a batch.
    """

    def __init__(self, what: str, give: str, or_function: str):
        super().__init__(f"{what}: give {give}, or {or_function}")
        self.what, self.give = what, give


def _check_shapes(shapes: Iterable[Sequence[int]]) -> None:
    several = sorted({str(list(each)) for each in shapes})
    if len(several) > 1:
        sizes = " and ".join(several)
        raise InputError(f"images are of different shapes ({sizes}): resize them to the one that the model takes")


def check_shape(images: Tensor, wanted: Sequence[int]) -> None:
    """Raise InputError where images [N, C, H, W] are not of the shape [C, H, W] that a model takes."""
    if list(images.shape[1:]) != list(wanted):
        raise InputError(f"images are {list(images.shape[1:])}, the model takes {list(wanted)}: resize them")


def _images_alone(items: list) -> object:
    """A batch of the items' images. Their labels may be what no batch is made of."""
    parts: list[Any]
    if isinstance(items[0], Mapping):
        parts = [{key: value for key, value in item.items() if hasattr(value, "shape")} for item in items]
    else:
        parts = [item[0] if isinstance(item, list | tuple) and item else item for item in items]
        if all(isinstance(each, Tensor) for each in parts):
            _check_shapes(each.shape for each in parts)
    return batch_of(parts)


def batch_of(items: list) -> object:
    """Items put together, as a DataLoader does. Raises InputError where they cannot be."""
    try:
        return default_collate(items)
    except (TypeError, RuntimeError) as error:
        what = f"items cannot be put into a batch ({reason(error)})"
        raise InputError(f"{what}: give tensors of one shape, and whole numbers for labels") from error


def _images_of(batch: object) -> object:
    if isinstance(batch, Mapping):
        found = [value for value in batch.values() if isinstance(value, Tensor) and value.ndim > 2]
        if len(found) != 1:
            raise UnclearError(
                f"a batch is a dictionary of {', '.join(map(str, batch))}, {len(found)} of them images",
                "one image an item", "images_of=lambda batch: batch['<key>']",
            )  # fmt: skip
        return found[0]
    return batch[0] if isinstance(batch, list | tuple) and batch else batch


def _checked(images: object) -> Tensor:
    if isinstance(images, np.ndarray):
        raise UnclearError("images are a NumPy array", "torch.from_numpy of it", "images_of=<a function>")
    if not isinstance(images, Tensor):
        what = f"a batch gives a {type(images).__name__} for images"
        raise UnclearError(what, "tensors [N, C, H, W]", "images_of=<a function>")
    if images.ndim < 2 or not images.is_floating_point():
        raise InputError(
            f"images are {images.dtype} of shape {list(images.shape)}: give floats [N, C, H, W], normalised as the "
            "model takes them"
        )
    if not images.isfinite().all():
        raise InputError("images hold NaN or infinity: leave such out")
    images = images.detach().float().cpu()
    return images.clone() if images.is_inference() else images  # of which nothing that has a gradient can be computed


def labelled(
    batch: object,
    images_of: Callable[[object], Tensor] | None = None,
    labels_of: Callable[[object], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Images [N, C, H, W] and labels [N] of a batch: a pair, or a dictionary with an entry of either.

    images_of, labels_of: take them out of a batch of another form. Raises InputError where there are no labels.
    """
    images = _checked(images_of(batch) if images_of else _images_of(batch))
    labels: object
    if labels_of:
        labels = labels_of(batch)
    elif isinstance(batch, Mapping):
        labels = next((batch[key] for key in ("labels", "label") if key in batch), None)
    else:
        labels = batch[1] if isinstance(batch, list | tuple) and len(batch) > 1 else None
    if labels is None:
        raise UnclearError("a batch has no labels", "(images, labels)", "labels_of=<a function>")
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError) as error:
        raise InputError("labels are no numbers: give the place of each image's class, from 0") from error
    labels = labels.flatten() if labels.shape == (len(images), 1) else labels
    if labels.shape != (len(images),) or labels.is_floating_point():
        raise InputError(f"labels are {labels.dtype} of shape {list(labels.shape)}: give a whole number an image")
    return images, labels.long()


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Raise InputError where a label [N] is no place among the classes."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        label, most = int(wrong[0]), num_classes - 1
        raise InputError(f"an image has the label {label}, the model has {num_classes} outputs: give 0 to {most}")


class Labelled:
    """An iterable of batches (images [N, C, H, W], labels [N]) of a Dataset or a loader, as often as it is asked.

    num_classes: what labels are checked against; None leaves them unchecked.
    """

    def __init__(
        self,
        source: object,
        images_of: Callable[[object], Tensor] | None = None,
        labels_of: Callable[[object], Tensor] | None = None,
        num_classes: int | None = None,
    ):
        if isinstance(source, Dataset):
            source = DataLoader(source, BATCH_SIZE, collate_fn=batch_of)
        if not isinstance(source, Iterable):
            raise InputError(f"data is a {type(source).__name__}: give a Dataset or a loader of labelled images")
        self.source, self.images_of, self.labels_of, self.num_classes = source, images_of, labels_of, num_classes

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.source:
            images, labels = labelled(batch, self.images_of, self.labels_of)
            if self.num_classes is not None:
                check_labels(labels, self.num_classes)
            yield images, labels

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]  # TypeError where the loader has no length
