"""Lightning's Trainer as this project uses it: quiet, its progress shown by our own bars."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment

from attnround.errors import InputError, check_number, reason
from attnround.progress import bar
from attnround.ranks import num_ranks, rank

LOGGERS = ("pytorch_lightning", "lightning_fabric")
PRECISIONS = ("32-true", "bf16-mixed")
QUIET = (
    "does not have many workers",  # images in memory need none, and image folders set data.num_workers
    "The number of training batches",  # an epoch of reconstruction is a handful of bursts
    "no `validation_step`",  # pre-training is evaluated once, at its end
    "Checkpoint directory",  # a fit that goes on finds its own
    "Experiment logs directory",  # and logs anew what its checkpoint has
    "GPU available but not used",  # trainer=cpu was asked for
    "module\\(s\\) in eval mode at the start of training",  # reconstruction never trains a batch norm
    "isinstance\\(treespec, LeafSpec\\)",  # Lightning's own use of a torch call that is going
)


@dataclass(frozen=True)
class TrainerSettings:
    """The device side of every Trainer of a run. precision is Lightning's word for it, one of `PRECISIONS`.

    devices: how many share the calibration images and a fit with labels, -1 for all there are; strategy: of that fit.
    """

    accelerator: str = "cpu"
    precision: str = "32-true"
    devices: int = 1
    strategy: str = "ddp_spawn"

    def __post_init__(self) -> None:
        if self.devices != -1 or self.accelerator == "cpu":  # -1: all there are
            check_number("trainer.devices", self.devices, least=1, most=1024, whole=True)
        if self.precision not in PRECISIONS:
            raise InputError(f"trainer.precision={self.precision}: give one of {', '.join(PRECISIONS)}")

    @property
    def device_name(self) -> str:
        """What computes: the GPU's name, or cpu."""
        return torch.cuda.get_device_name() if self.accelerator in ("gpu", "cuda") else "cpu"

    @property
    def device(self) -> torch.device:
        """What computes where one device is enough. Raises InputError where the machine has no such accelerator."""
        return self.make().strategy.root_device

    @property
    def num_devices(self) -> int:
        """How many there are of those asked for. Raises InputError where the machine has no such accelerator."""
        return 1 if self.devices == 1 else self.make(devices=self.devices).num_devices

    @property
    def autocast(self) -> bool:
        """Whether forward passes are in bfloat16."""
        return self.precision.startswith("bf16")

    @staticmethod
    @contextlib.contextmanager
    def quiet_within() -> Iterator[None]:
        """What `quiet` changes is as before, at the end."""
        loggers = [logging.getLogger(name) for name in LOGGERS]
        levels = [logger.level for logger in loggers]
        with warnings.catch_warnings():
            try:
                yield
            finally:
                for logger, level in zip(loggers, levels, strict=True):
                    logger.setLevel(level)

    @staticmethod
    def quiet() -> None:
        """Silence what Lightning says of things that are meant so."""
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        for message in QUIET:
            warnings.filterwarnings("ignore", f".*{message}.*")

    def make(self, **more: Any) -> pl.Trainer:
        """A quiet Trainer on this process's device. Raises InputError where the machine has no such accelerator."""
        self.quiet()
        settings: dict[str, Any] = {
            "accelerator": self.accelerator,
            "devices": 1 if num_ranks() == 1 or self.accelerator == "cpu" else [rank()],
            "precision": self.precision,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        settings |= more
        if "devices" not in more:  # a cluster's variables, in a job that was not started by srun, say nothing of it
            settings["plugins"] = [LightningEnvironment()]
        try:
            return pl.Trainer(**settings)
        except (pl.utilities.exceptions.MisconfigurationException, ValueError) as error:
            given = f"trainer.accelerator={self.accelerator}, trainer.precision={self.precision}"
            raise InputError(f"{given}: {reason(error)}; trainer=cpu runs anywhere") from error

    def make_distributed(self, **more: Any) -> pl.Trainer:
        """The same on all the devices. Its loaders give each device its part by themselves."""
        if self.devices == 1:
            return self.make(**more)
        return self.make(devices=self.devices, strategy=self.strategy, use_distributed_sampler=False, **more)


class EvaluationBar(pl.Callback):
    """Counts evaluation batches."""

    def __init__(self, name: str):
        self.name = name

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar = bar(int(sum(trainer.num_val_batches)), f"evaluate {self.name}", "batch")

    def on_validation_batch_end(self, *_: object) -> None:
        self.bar.update()

    def on_validation_end(self, *_: object) -> None:
        self.bar.close()


class TrainingBar(pl.Callback):
    """Counts training batches over all epochs and shows the loss."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar = bar(int(trainer.estimated_stepping_batches), "train", "step", shown=trainer.is_global_zero)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.bar.update()
        self.bar.set_postfix(epoch=trainer.current_epoch, loss=f"{outputs['loss'].item():.3f}", refresh=False)

    def on_train_end(self, *_: object) -> None:
        self.bar.close()
