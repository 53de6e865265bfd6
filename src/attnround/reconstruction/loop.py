"""The reconstruction of a network as a plain loop over its units, each learned in bursts of steps."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, fx

from attnround.calibration.cache import budget_mib
from attnround.calibration.gradients import gradients_of
from attnround.calibration.output_metric import measure
from attnround.calibration.walk import Walk
from attnround.graph.batches import in_batches
from attnround.graph.capture import Captured
from attnround.graph.edges import beside
from attnround.graph.trace import executor, graph_of
from attnround.machine import memory_kept
from attnround.quantization.rounding import RoundingMethod
from attnround.ranks import check_same, from_first, is_own, num_ranks
from attnround.reconstruction.checkpoint import Checkpoint, layer_state, restore_layer
from attnround.reconstruction.plan import Bench, Reconstruction, Step
from attnround.reconstruction.report import UnitReport
from attnround.reconstruction.unit import UnitWork

MIXED_FROM = 0.5  # least part of an image in what is mixed of it and another


def mixed(images: Tensor, seed: int) -> Tensor:
    """Each image [N, C, H, W] with another one shining through, half of it at most, seeded.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412, with parts drawn evenly.
    """
    generator = torch.Generator().manual_seed(seed + 77)  # none of those that rounding draws from
    part = MIXED_FROM + (1 - MIXED_FROM) * torch.rand(len(images), 1, 1, 1, generator=generator)
    others = images[torch.randperm(len(images), generator=generator).to(images.device)]
    part = part.to(images.device)
    return part * images + (1 - part) * others


class Callback:
    """Told how a loop comes along; a method that is not overridden does nothing."""

    def on_start(self, loop: "ReconstructionLoop") -> None:
        """The first unit is yet to begin."""

    def on_unit_begin(self, loop: "ReconstructionLoop") -> None:
        """The unit at `loop.step` is about to begin."""

    def on_burst_end(self, loop: "ReconstructionLoop") -> None:
        """A burst of `loop.unit` is done."""

    def on_unit_end(self, loop: "ReconstructionLoop") -> None:
        """The unit is baked; its report is the last of `loop.reports`."""

    def on_end(self, loop: "ReconstructionLoop") -> None:
        """All units are done, or an error broke the loop off."""


class ReconstructionLoop:
    """Rounds the student's weights in place, one unit of the plan after another.

    `run` is the whole of it; `begin_unit`, `run_burst` and `finish_unit` are its parts, for others that drive it.
    Every unit draws random numbers from a seed of its own, so that it comes out the same whether or not those before it
    were taken up from a checkpoint.

    teacher: the float model; student: the same with quantized layers in place, both on the CPU; images: [N, C, H, W],
    the calibration images; autocast: forward passes in bfloat16; metrics: layer name -> the metric of its output, None:
    measured here where the settings ask for one; checkpoint: where finished units are written to, and
    taken up from; index: the place of the current unit in the plan; unit: the work on it.
    """

    unit: UnitWork

    def __init__(
        self,
        teacher: Captured,
        student: Captured,
        images: Tensor,
        quantizer: RoundingMethod,
        settings: Reconstruction,
        *,
        autocast: bool = False,
        seed: int = 0,
        metrics: Mapping[str, Tensor] | None = None,
        checkpoint: Checkpoint | None = None,
        callbacks: Sequence[Callback] = (),
    ):
        self.teacher, self.student, self.images = beside(teacher, student), student, images
        self.settings, self.autocast, self.seed = settings, autocast, seed
        self.checkpoint, self.callbacks, self.given_metrics = checkpoint, callbacks, metrics
        self.graph = graph_of(self.teacher)
        self.plan = settings.plan(self.graph, self.teacher, images[:1])
        self.quantizers = [step.settings.adapt(quantizer) for step in self.plan]
        self.reports = checkpoint.restore(student) if checkpoint else []
        self.index = len(self.reports)

    @property
    def step(self) -> Step:
        return self.plan[self.index]

    @property
    def num_bursts(self) -> list[int]:
        """Bursts of every unit of the plan, where none stops early."""
        return [
            max(1, math.ceil(quantizer.num_steps / step.settings.burst))
            for quantizer, step in zip(self.quantizers, self.plan, strict=True)
        ]

    @contextlib.contextmanager
    def on(self, device: torch.device | str) -> Iterator[None]:
        """Within, the models are on this device and units can be worked on; afterwards they are on the CPU.

        Of processes that share the work each carries its part of the batches, of the same images.
        """
        check_same(self.images)
        self.device = torch.device(device)
        self.teacher.to(device)
        self.student.to(device).eval()
        images, size = self.images.to(device), self.settings.batch_size
        self.num_held_out = int(self.settings.held_out * len(images))
        shown, kept = images.split([len(images) - self.num_held_out, self.num_held_out])
        if self.settings.mirrored:  # images held out are no copies of those learned from
            shown = torch.cat([shown, shown.flip(-1)])
        if self.settings.mixup:
            shown = torch.cat([shown, mixed(shown, self.seed)])
        self.num_images = len(shown) + len(kept)
        learned, held_out = list(in_batches(shown, size)), list(in_batches(kept, size)) if len(kept) else []
        self.num_learned_batches = len(learned)
        teacher, student = (executor(model, self.graph) for model in (self.teacher, self.student))
        own = [is_own(i) for part in (learned, held_out) for i in range(len(part))]
        cache_mib = budget_mib(self.settings.cache_mib, device)
        self.walk = Walk(self.graph, teacher, student, learned + held_out, cache_mib, own)
        self.forks: dict[fx.Node, Walk] = {}
        metrics = self.given_metrics
        if metrics is None:
            metrics = measure(self.settings.metric, self.teacher, images, self.seed)
        self.metrics = {name: metric.to(device) for name, metric in metrics.items()}
        self._tell("on_start")
        try:
            with memory_kept(), gradients_of(self.teacher):
                yield
        finally:
            self._tell("on_end")
            del self.walk, self.forks
            self.teacher.cpu()
            self.student.cpu()

    def run(self, device: torch.device | str = "cpu") -> None:
        """Take all units that are left."""
        with self.on(device):
            while self.index < len(self.plan):
                self.begin_unit()
                for burst in range(self.num_bursts[self.index]):
                    self.run_burst(burst)
                    if self.unit.stopped:
                        break
                self.finish_unit()

    def begin_unit(self) -> None:
        """Carry the images to the unit at `step`, and start the roundings of its layers."""
        self.begun = time.perf_counter()
        self._tell("on_unit_begin")
        bench = Bench(
            teacher=self.teacher,
            student=self.student,
            graph=self.graph,
            walk=self._walk_of(self.step),
            quantizer=self.quantizers[self.index],
            generator=torch.Generator(self.device).manual_seed(self.seed + self.index),
            num_images=self.num_images,
            num_held_out=self.num_held_out,
            num_learned_batches=self.num_learned_batches,
            autocast=self.autocast,
            metrics=self.metrics,
        )
        torch.manual_seed(self.seed + self.index)  # for what draws from the global generator, such as QDrop
        self.unit = self.step.settings.begin(self.step.unit, bench)

    def _walk_of(self, step: Step) -> Walk:
        """The walk, or where the step names a fork, a copy of the walk made there; steps of the same fork share it."""
        if step.fork is None:
            return self.walk
        if step.fork not in self.forks:
            for _ in self.walk.values(step.fork):
                pass
            self.forks = {step.fork: self.walk.fork()}
        return self.forks[step.fork]

    def run_burst(self, burst: int) -> None:
        """Take the steps of the unit's burst number `burst`."""
        num_steps, size = self.quantizers[self.index].num_steps, self.step.settings.burst
        self.unit.run(range(burst * size, min((burst + 1) * size, num_steps)))
        self._tell("on_burst_end")

    def finish_unit(self) -> None:
        """Bake the unit, report it, write the checkpoint, and go on to the next."""
        report = self._of_first(self.unit.finish())
        self.reports.append(dataclasses.replace(report, seconds=time.perf_counter() - self.begun))
        if self.checkpoint:
            self.checkpoint.save(self.student, self.reports)
        self._tell("on_unit_end")
        self.index += 1

    def _of_first(self, report: UnitReport) -> UnitReport:
        """The report of the first of the processes that share the work, and its integers in the unit's layers.

        All have learned from the same sums, but on devices that may be unlike.
        """
        if num_ranks() == 1:
            return report
        layers = self.unit.layers
        own = {name: {key: each.cpu() for key, each in layer_state(layer).items()} for name, layer in layers.items()}
        report, states = from_first((report, own))
        for name, state in states.items():
            restore_layer(layers[name], state)
        return report

    def _tell(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self)
