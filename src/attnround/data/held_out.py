"""The labelled training images in two parts: one to train on, and one to see how that goes."""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

from attnround.data.base import ImageData
from attnround.errors import InputError


class HeldOut(pl.LightningDataModule):
    """Trains on all training images of `data` but a seeded draw of them, and validates on that, not augmented.

    fraction: of the training images, held out; batch_size: on all devices together, of which each sees its share. The
    order of an epoch and its augmentation depend on the seed and the epoch alone, so that a resumed fit sees the same.
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

    @property
    def images_an_epoch(self) -> int:
        """Of whole batches."""
        return len(self.training) // self.batch_size * self.batch_size

    def setup(self, stage: str) -> None:
        self.data.trainer = self.trainer

    def train_dataloader(self) -> DataLoader:
        """Whole batches. Lightning asks for it at the start of every epoch."""
        seed = self.data.seed + self.trainer.current_epoch
        pl.seed_everything(seed * self.trainer.world_size + self.trainer.global_rank, verbose=False)
        sampler = DistributedSampler(
            self.training, self.trainer.world_size, self.trainer.global_rank, seed=self.data.seed, drop_last=True
        )
        sampler.set_epoch(self.trainer.current_epoch)
        return self._loader(self.training, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.held_out)

    def on_after_batch_transfer(self, batch: object, dataloader_idx: int) -> object:
        return self.data.on_after_batch_transfer(batch, dataloader_idx)

    def _loader(self, dataset: Dataset, **more: object) -> DataLoader:
        return self.data.loader(dataset, self.batch_size // self.trainer.world_size, **more)
