"""Run quantization-aware training: from a quantized student to a better one."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from attnround.errors import InputError, check_identity
from attnround.graph import Captured, FoldedNorm
from attnround.qat.batch_norm import estimate_norms, insert_norms
from attnround.qat.layer import settle_layers, train_layers
from attnround.qat.module import QatModule
from attnround.qat.settings import Lsq
from attnround.trainer import TrainerSettings, TrainingBar
from attnround.typed import Number, load_typed

MONITOR = "qat/held_out_loss"
EPOCH = {"epoch": int, "loss": Number, "held_out_loss": Number, "held_out_top1": float, "seconds": float}
CHECKPOINT = {"qat": {"identity": str, "curve": [EPOCH]}, "state_dict": {str: Tensor}}
ANEW = "remove its folder to train anew"


@dataclass(frozen=True)
class Tuned:
    """A quantized model after training; curve: a row for each epoch; best: the epoch that it is from."""

    student: Captured
    curve: list[dict[str, float]]

    @property
    def seconds(self) -> float:
        """Of all epochs, those before a resume too."""
        return sum(row["seconds"] for row in self.curve)

    @property
    def best(self) -> int:
        return min(range(len(self.curve)), key=lambda epoch: self.curve[epoch]["held_out_loss"])


def finetune(
    teacher: Captured,
    student: Captured,
    data: pl.LightningDataModule,
    images: Tensor,
    norms: Mapping[str, FoldedNorm],
    settings: Lsq,
    trainer: TrainerSettings,
    folder: Path,
    loggers: Sequence[Logger] = (),
    identity: str = "",
    resume: bool = False,
) -> Tuned:
    """Train a copy of the student; the weights of its best epoch are rounded to their final integers.

    data: labelled images, in a part to train on and one held out; images: [N, C, H, W] without labels, and norms:
    layer name -> the batch norm that was folded into it, both for batch_norm=reestimated.
    folder: where Lightning's checkpoints are written after every epoch; with `resume` the last of them is gone on from.
    Raises InputError where that is of another run.
    """
    last, best = folder / "last.ckpt", folder / "best.ckpt"
    if not resume:
        for path in (last, best):  # an earlier run's, in a folder given twice
            path.unlink(missing_ok=True)
    net, float_net = (copy.deepcopy(model) for model in (student, teacher))
    device = trainer.device
    train_layers(net, float_net)
    if settings.batch_norm == "reestimated":
        reference = net if settings.start == "ptq" else float_net
        insert_norms(net.to(device), reference.to(device), norms, images.to(device))
        net.cpu()
    net.train()  # Lightning leaves the mode as it is
    module = QatModule(net, float_net.eval(), settings, identity)
    going_on = str(last) if last.exists() else None
    if not (going_on and finished(read(last, identity)["qat"]["curve"], settings)):
        fit = trainer.make_distributed(
            max_epochs=settings.num_epochs,
            reload_dataloaders_every_n_epochs=1,  # each epoch has an order of its own
            num_sanity_val_steps=0,
            logger=list(loggers) if trainer.devices == 1 else False,  # a logger's files are this process's alone
            enable_checkpointing=True,
            callbacks=callbacks(settings, folder),
        )
        fit.fit(module, datamodule=data, ckpt_path=going_on, weights_only=True)
    curve = read(last, identity)["qat"]["curve"]
    load_weights(module, best, identity)
    estimate_norms(net.to(device), images.to(device))
    net = net.cpu()
    settle_layers(net)
    return Tuned(net, curve)


def callbacks(settings: Lsq, folder: Path) -> list[pl.Callback]:
    """Both the best and the last epoch are kept; the averaged weights are what is evaluated and kept as the best."""
    options: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    keep = [
        ModelCheckpoint(folder, filename="best", monitor=MONITOR, **options),
        ModelCheckpoint(folder, filename="last", **options),  # after the best one, whose state it holds
    ]
    extra: list[pl.Callback] = [EMAWeightAveraging(decay=settings.ema, use_buffers=False)] if settings.ema else []
    if settings.patience is not None:
        extra.append(EarlyStopping(MONITOR, patience=settings.patience, check_on_train_epoch_end=True))
    return [TrainingBar(), *extra, *keep]


def finished(curve: list[dict[str, float]], settings: Lsq) -> bool:
    """Whether a run with this curve had come to its end, by the number of epochs or early."""
    losses = [row["held_out_loss"] for row in curve]
    waited = len(losses) - 1 - losses.index(min(losses))
    return len(losses) == settings.num_epochs or (settings.patience is not None and waited >= settings.patience)


def load_weights(module: nn.Module, path: Path, identity: str) -> None:
    """Load the weights of a checkpoint. Raises InputError as `read` does, and where they are of another model."""
    try:
        module.load_state_dict(read(path, identity)["state_dict"])
    except RuntimeError as error:
        raise InputError(f"{path} is of another model: {ANEW}") from error


def read(path: Path, identity: str) -> dict:
    """A checkpoint of this run. Raises InputError where it is damaged or another's."""
    content = load_typed(path, CHECKPOINT, "training", ANEW)
    if not content["qat"]["curve"]:
        raise InputError(f"{path} is of no epoch: {ANEW}")
    check_identity(path, content["qat"]["identity"], identity)
    return content
