"""A model over a whole evaluation set, through Lightning's `trainer.validate`."""

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
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.found: list[tuple[Tensor, Tensor | None] | None] = []  # logits and labels, batch by batch

    def validation_step(self, batch: tuple[Tensor, Tensor | None] | None, batch_idx: int) -> None:
        if batch is None:
            self.found.append(None)
            return
        images, labels = batch
        logits = [class_logits(self.model, part).float().cpu() for part in in_batches(images, len(images))]
        self.found.append((torch.cat(logits), None if labels is None else labels.cpu()))


def evaluate(model: nn.Module, data: ImageData, trainer: TrainerSettings, name: str = "") -> Outputs:
    """Run the whole evaluation set through the model. `name` is what the progress bar says.

    Processes that share the work take their batches of it, and all have all outputs.
    """
    collector = _Collector(model)
    trainer.make(callbacks=[EvaluationBar(name)]).validate(collector, datamodule=data, verbose=False)
    data.share_remarks()
    data.say_remarks()
    found = [each for each in all_batches(collector.found) if each is not None]
    if not found:
        raise InputError("none of the evaluation images could be read: check what data.root points to")
    labels = [each for _, each in found if each is not None]
    return Outputs(torch.cat([logits for logits, _ in found]), torch.cat(labels) if labels else None)
