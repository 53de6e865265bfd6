"""Calibration images as people hold them: a tensor, a data set, a loader, any iterable of batches."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from attnround.errors import InputError

BATCH_SIZE = 64  # in which a data set is read


def gather_images(source: object, num_images: int, images_of: Callable[[object], Tensor] | None = None) -> Tensor:
    """The first `num_images` images, [N, C, H, W] floats on the CPU; all of a tensor's, fewer where there are fewer.

    source: a tensor [N, C, H, W], a Dataset, a DataLoader, a LightningDataModule or any iterable of batches. Of a batch
    that is a tuple the first part is taken, of a dictionary its only tensor of four dimensions; images_of: takes them
    out of any other. Labels are not looked at. Raises InputError where there is nothing, or nothing that is images.
    """
    if isinstance(source, Tensor):
        return _checked(source)
    if hasattr(source, "train_dataloader") and not isinstance(source, Iterable):
        source = source.train_dataloader()
    if isinstance(source, Dataset) and not isinstance(source, DataLoader):
        source = DataLoader(source, BATCH_SIZE)
    if not isinstance(source, Iterable):
        raise InputError(f"images are a {type(source).__name__}: give a tensor [N, C, H, W], a Dataset or a DataLoader")
    found: list[Tensor] = []
    count = 0
    for batch in source:
        images = _checked(images_of(batch) if images_of else _images_of(batch))
        found.append(images[: num_images - count])
        count += len(found[-1])
        if count == num_images:
            break
    if not count:
        raise InputError("images gave no batch: give at least one image")
    if len({each.shape[1:] for each in found}) > 1:
        sizes = " and ".join(sorted({str(list(each.shape[1:])) for each in found}))
        raise InputError(f"images are of different shapes ({sizes}): resize them to the one that the model takes")
    return torch.cat(found)


def _images_of(batch: object) -> object:
    if isinstance(batch, Mapping):
        found = [value for value in batch.values() if isinstance(value, Tensor) and value.ndim == 4]
        if len(found) != 1:
            raise InputError(
                f"a batch is a dictionary of {', '.join(map(str, batch))}, {len(found)} of them images: give "
                "images_of=lambda batch: batch['<key>']"
            )
        return found[0]
    return batch[0] if isinstance(batch, list | tuple) and batch else batch


def _checked(images: object) -> Tensor:
    if not isinstance(images, Tensor):
        raise InputError(
            f"a batch gives a {type(images).__name__} for images: give tensors [N, C, H, W], or images_of=<a function>"
        )
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(
            f"images are {images.dtype} of shape {list(images.shape)}: give floats [N, C, H, W], normalised as the "
            "model takes them"
        )
    if not images.isfinite().all():
        raise InputError("images hold NaN or infinity: leave such out")
    return images.detach().float().cpu()
