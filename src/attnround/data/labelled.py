"""Labelled images as people hold them, for a training."""

from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from attnround.data.images import Labelled
from attnround.errors import InputError


class LabelledPair(pl.LightningDataModule):
    """Labelled images to train on, and others that are held out.

    data: a Dataset, split by a seed where held_out is None, or a loader of batches; fraction: of a Dataset, held out;
    batch_size: of a Dataset's steps.
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
    ):
        super().__init__()
        if held_out is None:
            if not isinstance(data, Dataset):
                raise InputError("held_out is not given: give labelled images that decide the best epoch, or a Dataset")
            order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
            num_held_out = max(1, round(fraction * len(order)))
            data, held_out = Subset(data, order[num_held_out:]), Subset(data, order[:num_held_out])
        if isinstance(data, Dataset):
            batch_size = min(batch_size, len(data))
            shuffled = torch.Generator().manual_seed(seed)
            data = DataLoader(data, batch_size, shuffle=True, drop_last=True, generator=shuffled)
        self.training, self.held_out = (Labelled(each, images_of, labels_of) for each in (data, held_out))
        if not hasattr(self.training.source, "__len__"):
            raise InputError(f"data is a {type(data).__name__} without a length: give a loader that has one")

    def train_dataloader(self) -> Labelled:
        return self.training

    def val_dataloader(self) -> Labelled:
        return self.held_out
