"""An ordinary supervised fit: cross-entropy, SGD with Nesterov momentum or AdamW, one learning-rate cycle.

Source: the one-cycle schedule is Smith and Topin, arXiv 1708.07120; label smoothing, Szegedy et al., arXiv 1512.00567.
"""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attnround.training.recipe import Recipe

MOMENTUM_CYCLE = 0.05  # by which the momentum is lower at the peak of the rate, and higher at its ends
USUAL_MOMENTUM = 0.9  # AdamW's, of the gradients


class SupervisedModule(pl.LightningModule):
    """Trains `model` on batches (images [N, C, H, W], labels [N]); logs `loss`."""

    def __init__(self, model: nn.Module, recipe: Recipe):
        super().__init__()
        self.model = model
        self.recipe = recipe

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = cross_entropy(self.model(images), labels, label_smoothing=self.recipe.label_smoothing)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        recipe = self.recipe
        learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        decayed = [parameter for parameter in learned if parameter.ndim > 1]
        others = [parameter for parameter in learned if parameter.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, recipe.lr, weight_decay=recipe.weight_decay)
        else:
            moves = recipe.momentum > 0
            optimizer = torch.optim.SGD(
                groups, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=moves
            )
        num_steps = max(4, int(self.trainer.estimated_stepping_batches))  # a cycle of fewer has no two sides
        warmup = max(recipe.warmup, 2 / num_steps)  # torch divides by one step less than that
        momentum = recipe.momentum if recipe.optimizer == "sgd" else USUAL_MOMENTUM
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.lr, num_steps, pct_start=warmup, cycle_momentum=momentum > 0,
            base_momentum=max(round(momentum - MOMENTUM_CYCLE, 6), 0.0),
            max_momentum=min(round(momentum + MOMENTUM_CYCLE, 6), 0.9999),
        )  # fmt: skip
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
