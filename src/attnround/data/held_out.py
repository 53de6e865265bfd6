"""The labelled training images in two parts: one to train on, and one to see how that goes."""

import random
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

from attnround.data.base import ImageData
from attnround.errors import InputError


class HeldOut(pl.LightningDataModule):
    """Trains on all training images of `data` but a seeded draw of them, and validates on that, not augmented.

    fraction: of the training images, held out; batch_size: on all devices together, of which each sees its share.
    What a step sees, and what it draws, depends on the seed and on its place in the fit alone, so that a resumed fit is
    the same as one that was not interrupted.
    """

    def __init__(self, data: ImageData, fraction: float, batch_size: int):
        super().__init__()
        augmented, plain = data.training_sets()
        order = torch.randperm(len(plain), generator=torch.Generator().manual_seed(data.seed)).tolist()
        num_held_out = max(1, round(fraction * len(order)))
        self.data, self.batch_size = data, batch_size
        self.training, self.held_out = Subset(augmented, order[num_held_out:]), Subset(plain, order[:num_held_out])
        if len(self.training) < batch_size:
            raise InputError(
                f"qat.batch_size={batch_size}: there are {len(self.training)} labelled images to train on, and "
                f"{num_held_out} held out; give a batch of at most as many"
            )

    def check_shared(self, num_devices: int) -> None:
        """Raise InputError where so many devices cannot share a batch or what is held out."""
        if self.batch_size % num_devices:
            raise InputError(f"qat.batch_size={self.batch_size}: {num_devices} devices cannot share it evenly")
        if len(self.held_out) < num_devices:
            raise InputError(
                f"qat.held_out: {num_devices} devices cannot share {len(self.held_out)} images: hold out more, or "
                "take fewer devices"
            )

    @property
    def images_an_epoch(self) -> int:
        """Of whole batches."""
        return len(self.training) // self.batch_size * self.batch_size

    def setup(self, stage: str) -> None:
        self.data.trainer = self.trainer

    def train_dataloader(self) -> DataLoader:
        """Whole batches. Lightning asks for it at the start of every epoch."""
        world_size, rank, epoch = self.trainer.world_size, self.trainer.global_rank, self.trainer.current_epoch
        sampler: DistributedSampler = DistributedSampler(
            self.training, world_size, rank, seed=self.data.seed, drop_last=True
        )
        sampler.set_epoch(epoch)
        return self._loader(Seeded(self.training, self.data.seed, epoch), sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        """Each device's part, none of them twice: Lightning's own sampler would fill the last round up with copies."""
        part = range(self.trainer.global_rank, len(self.held_out), self.trainer.world_size)
        return self._loader(Subset(self.held_out, part))

    def on_after_batch_transfer(self, batch: object, dataloader_idx: int) -> object:
        if self.trainer.training:
            torch.manual_seed(hash((self.data.seed, self.trainer.global_step, self.trainer.global_rank)))
        return self.data.on_after_batch_transfer(batch, dataloader_idx)

    def _loader(self, dataset: Dataset, **more: object) -> DataLoader:
        return self.data.loader(dataset, self.batch_size // self.trainer.world_size, **more)


@dataclass(frozen=True)
class Seeded(Dataset):
    """The items of a data set, each prepared with draws of its own: the same in whichever process and order."""

    items: Dataset
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        seed = hash((self.seed, self.epoch, index)) % 2**32  # of integers: the same in every process
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (what transforms of others draw from)
        torch.default_generator.manual_seed(seed)  # the CPU's: torch.manual_seed looks for all others
        return self.items[index]
