"""A quantized network, and labelled images that its teacher's classes are about."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attnround.calibration import attach_activations, calibrate_activations
from attnround.data import HeldOut
from attnround.data.base import Calibration, ImageData
from attnround.graph import FoldedNorm, find_layers, fold_batch_norms, norms_to_fold, swap_layers
from attnround.qat import Lsq, finetune
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import Mse
from attnround.trainer import TrainerSettings


class Noisy(ImageData):
    """Images [N, 3, 12, 12] of noise; in training, more noise comes to them."""

    def __init__(self, images, labels):
        super().__init__(len(images), 32, seed=0)
        self.set = TensorDataset(images, labels)

    def calibration(self) -> Calibration:
        return Calibration(self.set.tensors[0], [], "noise", [])

    def training_sets(self):
        return self.set, self.set

    def val_dataloader(self) -> DataLoader:
        return self.loader(self.set, 64)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        images, labels = batch
        return [images + 0.1 * torch.randn_like(images), labels] if self.trainer.training else batch


@dataclass
class Problem:
    teacher: nn.Module
    student: nn.Module
    data: Noisy
    images: torch.Tensor
    norms: dict[str, FoldedNorm]

    def tune(self, folder, trainer=None, **more):
        settings = Lsq(**(SETTINGS | {key: more.pop(key) for key in list(more) if key in Lsq.__dataclass_fields__}))
        data = HeldOut(self.data, settings.held_out, settings.batch_size)
        return finetune(
            self.teacher, self.student, data, self.images, self.norms, settings, trainer or TrainerSettings(),
            folder, **more,
        )  # fmt: skip


SETTINGS = {"num_epochs": 4, "batch_size": 32, "lr": 0.02, "weight_decay": 0.0, "label_smoothing": 0.0}


@pytest.fixture
def problem(network) -> Problem:
    """Weights of 2 bits and inputs of 4, so that there is much to gain."""
    norms = norms_to_fold(network)
    fold_batch_norms(network)
    images = torch.randn(320, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(images)
        network.head.bias.sub_(logits.mean(0))
        labels = network(images).argmax(1)
    student = swap_layers(network, dict.fromkeys(find_layers(network), 2), ClipSearch())
    attach_activations(student, calibrate_activations(network, images, Mse(bit_width=4), 64))
    return Problem(network, student, Noisy(images, labels), images, norms)
