"""Models over a whole evaluation set, through Lightning's `trainer.validate`."""

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from attnround.data import ImageData
from attnround.errors import InputError
from attnround.evaluation.accuracy import Outputs
from attnround.graph import class_logits, in_batches
from attnround.ranks import all_batches
from attnround.trainer import EvaluationBar, TrainerSettings


class _Collector(pl.LightningModule):
    def __init__(self, models: Mapping[str, nn.Module]):
        super().__init__()
        self.models = nn.ModuleList(models.values())
        self.found: list[tuple[list[Tensor], Tensor | None] | None] = []  # logits of each model and labels, by batch

    def validation_step(self, batch: tuple[Tensor, Tensor | None] | None, batch_idx: int) -> None:
        if batch is None:
            self.found.append(None)
            return
        images, labels = batch
        logits = [
            torch.cat([class_logits(model, part).float().cpu() for part in in_batches(images, len(images))])
            for model in self.models
        ]
        self.found.append((logits, None if labels is None else labels.cpu()))


def evaluate(model: nn.Module, data: ImageData, trainer: TrainerSettings, name: str = "") -> Outputs:
    """Run the whole evaluation set through the model. `name` is what the progress bar says.

    Processes that share the work take their batches of it, and all have all outputs.
    """
    return evaluate_together({name: model}, data, trainer)[0]


def evaluate_together(models: Mapping[str, nn.Module], data: ImageData, trainer: TrainerSettings) -> list[Outputs]:
    """The same of several models, by name, for which each image is read once."""
    collector = _Collector(models)
    trainer.make(callbacks=[EvaluationBar(", ".join(models))]).validate(collector, datamodule=data, verbose=False)
    data.share_remarks()
    data.say_remarks()
    found = [each for each in all_batches(collector.found) if each is not None]
    if not found:
        raise InputError("none of the evaluation images could be read: check what data.root points to")
    labels = [each for _, each in found if each is not None]
    every = torch.cat(labels) if labels else None
    return [Outputs(torch.cat(logits), every) for logits in zip(*(each for each, _ in found), strict=True)]
