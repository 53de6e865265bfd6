"""Reconstruction as one Lightning fit: an epoch is a unit, a step is a burst of iterations."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from attnround.errors import check_number
from attnround.models.patches import Patches
from attnround.models.trace import calls, executor, trace
from attnround.progress import ReconstructionBar
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import ClipSearch
from attnround.quantization.rounding import Quantizer
from attnround.reconstruction.unit import LayerReport, LayerUnit
from attnround.reconstruction.walk import Walk
from attnround.trainer import TrainerSettings


@dataclass(frozen=True)
class LayerReconstruction:
    """The layer objective's settings.

    observer: the search for a weight's scale; ridge: pull of the weights to their float values, as a fraction of the
    inputs' mean second moment; num_positions: output positions of an image that enter the moments; batch_size: images
    carried at a time; burst: iterations between two looks at the loss; cache_mib: memory for carried activations.
    """

    observer: ClipSearch
    ridge: float = 0.01
    num_positions: int = 49
    batch_size: int = 64
    burst: int = 100
    cache_mib: float = 2048

    def __post_init__(self) -> None:
        check_number("reconstruction.ridge", self.ridge, above=0)
        check_number("reconstruction.cache_mib", self.cache_mib, least=0)
        for option in ("num_positions", "batch_size", "burst"):
            check_number(f"reconstruction.{option}", getattr(self, option), least=1, whole=True)


class ReconstructionModule(pl.LightningModule):
    """A thin shell: it walks to the next unit as an epoch starts, runs its bursts, and bakes it as the epoch ends.

    student: the float model `teacher` with quantized layers in place. The teacher is no submodule, so that the
    module's state is the student's alone.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        images: Tensor,
        quantizer: Quantizer,
        settings: LayerReconstruction,
        seed: int,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.student = student
        self.unregistered_teacher = (teacher,)
        self.images, self.quantizer, self.settings, self.seed = images, quantizer, settings, seed
        self.graph = trace(teacher)
        self.nodes = calls(self.graph, student, (QuantizedLayer,))
        layers = [student.get_submodule(node.target) for node in self.nodes]
        self.labels = [
            f"{node.target} {layer.grid.bit_width} bit" for node, layer in zip(self.nodes, layers, strict=True)
        ]
        self.num_bursts = max(1, math.ceil(quantizer.num_steps / settings.burst))
        self.reports: list[LayerReport] = []

    @property
    def teacher(self) -> nn.Module:
        return self.unregistered_teacher[0]

    def train_dataloader(self) -> DataLoader:
        """The bursts of one unit."""
        return DataLoader(range(self.num_bursts), batch_size=None)

    def configure_optimizers(self) -> list:
        """None for Lightning: each unit has an optimizer of its own."""
        return []

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)
        batches = list(self.images.to(self.device).split(self.settings.batch_size))
        teacher, student = (executor(model, self.graph, self.teacher) for model in (self.teacher, self.student))
        self.walk = Walk(self.graph, teacher, student, batches, self.settings.cache_mib)

    def on_train_epoch_start(self) -> None:
        self.student.eval()
        index, settings = self.current_epoch, self.settings
        node = self.nodes[index]
        float_layer = self.teacher.get_submodule(node.target)
        generator = torch.Generator().manual_seed(self.seed + index)
        self.unit = LayerUnit(
            node.target,
            float_layer,
            self.student.get_submodule(node.target),
            self.walk.inputs(node),
            self.quantizer,
            settings.observer,
            Patches(float_layer, settings.num_positions, generator),
            settings.ridge,
        )

    def training_step(self, burst: int, batch_idx: int) -> None:
        start = burst * self.settings.burst
        self.unit.run(range(start, min(start + self.settings.burst, self.quantizer.num_steps)))
        step = self.current_epoch * self.num_bursts + burst
        for logger in self.loggers:
            logger.log_metrics({f"reconstruction/{self.unit.name}": self.unit.loss}, step=step)

    def on_train_epoch_end(self) -> None:
        self.reports.append(self.unit.finish())


def reconstruct(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    quantizer: Quantizer,
    settings: LayerReconstruction,
    trainer: TrainerSettings,
    loggers: Sequence[Logger] = (),
    seed: int = 0,
) -> tuple[list[LayerReport], float]:
    """Round the student's weights, layer by layer in execution order, in place.

    images: [N, C, H, W], the calibration images. Returns a report for each layer, and the seconds it took.
    """
    start = time.perf_counter()
    module = ReconstructionModule(teacher, student, images, quantizer, settings, seed)
    fit = trainer.make(
        precision="32-true", max_epochs=len(module.nodes), logger=list(loggers), callbacks=[ReconstructionBar()]
    )
    fit.fit(module)
    return module.reports, time.perf_counter() - start
