"""Labelled images as people hold them, for a training."""

from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from attnround.data.images import Labelled, batch_of
from attnround.errors import InputError


class LabelledPair(pl.LightningDataModule):
    """Labelled images to train on, and others that are held out.

    data: a Dataset, split by a seed where held_out is None, or a loader of batches; fraction: of a Dataset, held out;
    batch_size: of a Dataset's steps; num_classes: what labels are checked against, None leaves them unchecked.
    """

    def __init__(
        self,
        data: object,
        held_out: object,
        fraction: float,
        batch_size: int,
        seed: int,
        images_of: Callable[[object], Tensor] | None = None,
        labels_of: Callable[[object], Tensor] | None = None,
        num_classes: int | None = None,
    ):
        super().__init__()
        if held_out is None:
            if not isinstance(data, Dataset) or not _has_length(data):
                raise InputError(
                    "held_out is not given: give labelled images that decide the best epoch, or a Dataset with a length"
                )
            if len(data) < 2:
                raise InputError(f"data has {len(data)} images: give at least 2, one of them to be held out")
            order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
            num_held_out = max(1, round(fraction * len(order)))
            data, held_out = Subset(data, order[num_held_out:]), Subset(data, order[:num_held_out])
        if not _has_length(data):
            raise InputError(f"data is a {type(data).__name__} without a length: give a Dataset or loader that has one")
        if isinstance(data, Dataset):
            batch_size = min(batch_size, len(data))
            shuffled = torch.Generator().manual_seed(seed)
            data = DataLoader(
                data, batch_size, shuffle=True, drop_last=True, generator=shuffled, collate_fn=batch_of
            )  # fmt: skip
        self.training, self.held_out = (Labelled(each, images_of, labels_of, num_classes) for each in (data, held_out))

    def train_dataloader(self) -> Labelled:
        return self.training

    def val_dataloader(self) -> Labelled:
        return self.held_out


def _has_length(data: object) -> bool:
    try:
        len(data)  # a loader has a length where its Dataset has
    except TypeError:
        return False
    return True
