"""Reconstruction as one fit of Lightning's Trainer: an epoch is a unit, a training step a burst of iterations."""

from collections.abc import Mapping, Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader

from attnround.graph.capture import Captured
from attnround.quantization.rounding import RoundingMethod
from attnround.reconstruction.callbacks import LossLog, ReconstructionBar
from attnround.reconstruction.checkpoint import Checkpoint
from attnround.reconstruction.data_free import round_data_free
from attnround.reconstruction.loop import ReconstructionLoop
from attnround.reconstruction.plan import Reconstruction
from attnround.reconstruction.report import UnitReport
from attnround.trainer import TrainerSettings


class ReconstructionModule(pl.LightningModule):
    """Drives a loop that is on the Trainer's device already.

    The teacher, which only the loop holds, is no submodule: the module's state is the student's alone.
    """

    def __init__(self, loop: ReconstructionLoop):
        super().__init__()
        self.automatic_optimization = False
        self.loop, self.student = loop, loop.student

    def train_dataloader(self) -> DataLoader:
        """The bursts of one unit. Of a generator of its own: a loader's draw would shift those of the unit's steps."""
        return DataLoader(range(self.loop.num_bursts[self.loop.index]), batch_size=None, generator=torch.Generator())

    def configure_optimizers(self) -> list:
        """None for Lightning: each unit has an optimizer of its own."""
        return []

    def on_train_epoch_start(self) -> None:
        self.loop.begin_unit()

    def on_train_batch_start(self, burst: int, batch_idx: int) -> int | None:
        """End the epoch of a unit that has stopped: that is what Lightning takes -1 for."""
        return -1 if self.loop.unit.stopped else None

    def training_step(self, burst: int, batch_idx: int) -> None:
        self.loop.run_burst(burst)

    def on_train_epoch_end(self) -> None:
        self.loop.finish_unit()


def fit_reconstruction(
    teacher: Captured,
    student: Captured,
    images: Tensor,
    quantizer: RoundingMethod,
    settings: Reconstruction,
    trainer: TrainerSettings,
    *,
    seed: int = 0,
    metrics: Mapping[str, Tensor] | None = None,
    loggers: Sequence[Logger] = (),
    checkpoint: Checkpoint | None = None,
) -> list[UnitReport]:
    """What `reconstruct` does, to the same bits, on the device and in the precision of a Trainer."""
    if quantizer.data_free:
        return round_data_free(teacher, student, quantizer, seed)
    loop = ReconstructionLoop(
        teacher, student, images, quantizer, settings,
        autocast=trainer.autocast, seed=seed, metrics=metrics, checkpoint=checkpoint,
        callbacks=[ReconstructionBar(), LossLog(loggers)],
    )  # fmt: skip
    num_left = len(loop.plan) - loop.index
    if num_left:
        fit = trainer.make(
            precision="32-true",  # the loop itself casts what it computes in less
            max_epochs=num_left,
            reload_dataloaders_every_n_epochs=1,
            logger=list(loggers),
        )
        with loop.on(trainer.device):
            fit.fit(ReconstructionModule(loop))
    return loop.reports
