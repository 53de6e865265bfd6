"""Reconstruction as one Lightning fit: an epoch is a unit, a step is a burst of iterations."""

import dataclasses
import math
import time
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from attnround.graph.trace import executor, graph_of
from attnround.progress import ReconstructionBar
from attnround.quantization.rounding import Quantizer
from attnround.reconstruction.checkpoint import Checkpoint
from attnround.reconstruction.data_free import round_data_free
from attnround.reconstruction.plan import Bench, Reconstruction, Step, UnitWork
from attnround.reconstruction.report import UnitReport
from attnround.reconstruction.walk import Walk
from attnround.trainer import TrainerSettings


class ReconstructionModule(pl.LightningModule):
    """A thin shell: it begins the next unit as an epoch starts, runs its bursts, and bakes it as the epoch ends.

    student: the float model `teacher` with quantized layers in place. The teacher is no submodule, so that the
    module's state is the student's alone. checkpoint: where finished units are written, and taken up from.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        images: Tensor,
        quantizer: Quantizer,
        settings: Reconstruction,
        seed: int,
        checkpoint: Checkpoint | None = None,
        autocast: bool = False,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.student = student
        self.unregistered_teacher = (teacher.requires_grad_(False),)
        self.images, self.settings, self.seed = images, settings, seed
        self.checkpoint, self.autocast = checkpoint, autocast
        self.num_held_out = int(settings.held_out * len(images))
        self.graph = graph_of(teacher)
        self.plan = settings.plan(self.graph, teacher, images[:1])
        self.quantizers = [step.settings.adapt(quantizer) for step in self.plan]
        self.reports = checkpoint.restore(student) if checkpoint else []
        self.num_done = len(self.reports)
        self.forks: dict = {}

    @property
    def teacher(self) -> nn.Module:
        return self.unregistered_teacher[0]

    @property
    def num_bursts(self) -> list[int]:
        """Bursts of each step of the plan that is still to do."""
        counts = [
            max(1, math.ceil(quantizer.num_steps / step.settings.burst))
            for quantizer, step in zip(self.quantizers, self.plan, strict=True)
        ]
        return counts[self.num_done :]

    @property
    def step(self) -> Step:
        return self.plan[self.num_done + self.current_epoch]

    def label(self, epoch: int) -> str:
        """The unit's name and the bits of its layers, as the bar shows it."""
        unit = self.plan[self.num_done + epoch].unit
        bits = sorted({self.student.get_submodule(name).grid.bit_width for name in unit.layers})
        return f"{unit.name} {'/'.join(map(str, bits))} bit"

    def train_dataloader(self) -> DataLoader:
        """The bursts of one unit. Of a generator of its own: a loader's draw would shift those of the unit's steps."""
        return DataLoader(range(self.num_bursts[self.current_epoch]), batch_size=None, generator=torch.Generator())

    def configure_optimizers(self) -> list:
        """None for Lightning: each unit has an optimizer of its own."""
        return []

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)
        images, size = self.images.to(self.device), self.settings.batch_size
        num_learned = len(images) - self.num_held_out
        learned = list(images[:num_learned].split(size))
        held_out = list(images[num_learned:].split(size)) if self.num_held_out else []
        teacher, student = (executor(model, self.graph) for model in (self.teacher, self.student))
        self.walk = Walk(self.graph, teacher, student, learned + held_out, self.settings.cache_mib)
        self.num_learned_batches = len(learned)

    def on_train_epoch_start(self) -> None:
        self.begun = time.perf_counter()
        self.student.eval()
        index = self.num_done + self.current_epoch
        bench = Bench(
            teacher=self.teacher,
            student=self.student,
            graph=self.graph,
            walk=self._walk_of(self.step),
            quantizer=self.quantizers[index],
            generator=torch.Generator(self.device).manual_seed(self.seed + index),
            num_images=len(self.images),
            num_held_out=self.num_held_out,
            num_learned_batches=self.num_learned_batches,
            autocast=self.autocast,
        )
        torch.manual_seed(self.seed + index)  # what draws from the global generator is the same after a resume
        self.unit: UnitWork = self.step.settings.begin(self.step.unit, bench)

    def _walk_of(self, step: Step) -> Walk:
        """The walk, or for steps that are to leave it at the start of their block, a fork of it there."""
        if step.fork is None:
            return self.walk
        if step.fork not in self.forks:
            for _ in self.walk.values(step.fork):
                pass
            self.forks = {step.fork: self.walk.fork()}
        return self.forks[step.fork]

    def training_step(self, burst: int, batch_idx: int) -> None:
        num_steps, size = self.quantizers[self.num_done + self.current_epoch].num_steps, self.step.settings.burst
        self.unit.run(range(burst * size, min((burst + 1) * size, num_steps)))
        place = sum(self.num_bursts[: self.current_epoch]) + burst
        for logger in self.loggers:
            logger.log_metrics({f"reconstruction/{self.step.unit.name}": self.unit.loss}, step=place)

    def on_train_epoch_end(self) -> None:
        report = self.unit.finish()
        self.reports.append(dataclasses.replace(report, seconds=time.perf_counter() - self.begun))
        if self.checkpoint:
            self.checkpoint.save(self.student, self.reports)


def reconstruct(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    quantizer: Quantizer,
    settings: Reconstruction,
    trainer: TrainerSettings,
    loggers: Sequence[Logger] = (),
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
) -> tuple[list[UnitReport], float]:
    """Round the student's weights, unit by unit in execution order, in place.

    images: [N, C, H, W], the calibration images. Returns a report for each unit, and the seconds it took (since the
    checkpoint, where it went on from one).
    """
    start = time.perf_counter()
    if quantizer.data_free:
        return round_data_free(teacher, student, quantizer, seed), time.perf_counter() - start
    autocast = trainer.precision.startswith("bf16")
    module = ReconstructionModule(teacher, student, images, quantizer, settings, seed, checkpoint, autocast)
    if module.num_bursts:
        fit = trainer.make(
            precision="32-true",
            max_epochs=len(module.num_bursts),
            reload_dataloaders_every_n_epochs=1,
            logger=list(loggers),
            callbacks=[ReconstructionBar()],
        )
        fit.fit(module)
    return module.reports, time.perf_counter() - start
