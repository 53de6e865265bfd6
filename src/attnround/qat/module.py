"""Quantization-aware training as an ordinary Lightning fit."""

import time

import torch
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from attnround.errors import InputError
from attnround.graph import class_logits
from attnround.qat.layer import keep_positive
from attnround.qat.settings import Lsq
from attnround.trainer import TrainerSettings
from attnround.training import SupervisedModule


class QatModule(SupervisedModule):
    """Trains a student whose layers are `TrainedLayer`s on batches (images [N, C, H, W], labels [N]).

    teacher: the float model. It is no submodule, so that the module's state is the student's alone. identity: of the
    run, which alone may go on from a checkpoint. curve: a row for each epoch that is done.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, settings: Lsq, identity: str = ""):
        super().__init__(student, settings)
        self.settings, self.identity = settings, identity
        self.unregistered_teacher = (teacher.requires_grad_(False),)
        self.curve: list[dict[str, float]] = []

    @property
    def teacher(self) -> nn.Module:
        return self.unregistered_teacher[0]

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the logits [N, classes] that it is of."""
        logits = class_logits(self.model, images)
        loss = cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        if self.settings.distillation:
            with torch.no_grad():
                target = class_logits(self.teacher, images)
            loss = loss + self.settings.distillation * distillation(logits, target, self.settings.temperature)
        return loss, logits

    def setup(self, stage: str) -> None:
        TrainerSettings.quiet()  # in each of several processes

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)

    def on_train_epoch_start(self) -> None:
        self.begun = time.perf_counter()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss, _ = self.loss(*batch)
        self.log("qat/loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: object, batch_idx: int) -> None:
        keep_positive(self.model)  # before weights are averaged or saved

    def on_validation_epoch_start(self) -> None:
        self.judged = torch.zeros(3, dtype=torch.double, device=self.device)  # loss, right and count, summed up

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        loss, logits = self.loss(*batch)
        right, count = (logits.argmax(1) == batch[1]).sum(), len(logits)
        self.judged += torch.stack([loss * count, right, torch.full_like(loss, count)])

    def on_validation_epoch_end(self) -> None:
        """Over the images of all devices: Lightning's own mean rounds the number of those that each has."""
        loss, right, count = self.trainer.strategy.reduce(self.judged, reduce_op="sum").tolist()
        values = {"qat/held_out_loss": loss / count, "qat/held_out_top1": 100 * right / count}
        self.log_dict(values, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        metrics = self.trainer.callback_metrics
        names = ("loss", "held_out_loss", "held_out_top1")
        row = {"epoch": self.current_epoch, **{name: metrics[f"qat/{name}"].item() for name in names}}
        self.curve.append(row | {"seconds": time.perf_counter() - self.begun})
        if not row["loss"] < float("inf"):
            raise InputError(f"the loss became {row['loss']} in epoch {row['epoch']}: lower qat.lr={self.settings.lr}")

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["qat"] = {"identity": self.identity, "curve": self.curve}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.curve = checkpoint["qat"]["curve"]


def distillation(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """KL(softmax(target / T) || softmax(logits / T)) * T^2, the mean over images.

    Source: Hinton, Vinyals and Dean, arXiv 1503.02531; T^2 keeps the gradient's size.
    """
    ours, theirs = (log_softmax(each / temperature, 1) for each in (logits, target))
    return kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2
