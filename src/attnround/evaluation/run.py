"""A model over a whole evaluation set, through Lightning's `trainer.validate`."""

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from attnround.data import ImageData
from attnround.errors import InputError
from attnround.evaluation.accuracy import Outputs
from attnround.graph import class_logits
from attnround.trainer import EvaluationBar, TrainerSettings


class _Collector(pl.LightningModule):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []

    def validation_step(self, batch: tuple[Tensor, Tensor | None] | None, batch_idx: int) -> None:
        if batch is None:
            return
        images, labels = batch
        self.logits.append(class_logits(self.model, images).float().cpu())
        if labels is not None:
            self.labels.append(labels.cpu())


def evaluate(model: nn.Module, data: ImageData, trainer: TrainerSettings, name: str = "") -> Outputs:
    """Run the whole evaluation set through the model. `name` is what the progress bar says."""
    collector = _Collector(model)
    trainer.make(callbacks=[EvaluationBar(name)]).validate(collector, datamodule=data, verbose=False)
    data.say_remarks()
    if not collector.logits:
        raise InputError("none of the evaluation images could be read: check what data.root points to")
    return Outputs(torch.cat(collector.logits), torch.cat(collector.labels) if collector.labels else None)
