"""The block objective: the output error of a part of the network, on mini-batches of activations.

x is the unit's input in the float model and x' that in the model quantized so far; y is its output in the float model.
All its layers have the soft weights s (E[q] - z) at once. With f the unit's output for these, the loss is

    mean (f(x') - y)^2  +  sum over weights of  c s^2 Var[q]        c = E |df/dw|^2, estimated once

in percent of the variance of y. The second term is what the roundings' variances add to the expected loss, to second
order. Elements of x' are replaced by those of x with probability `mix`.

Sources: block units and the Fisher weighting, BRECQ (arXiv 2102.05426); mixed inputs, QDrop (arXiv 2203.05740).
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.func import functional_call

from attnround.calibration.cache import batches, budget_mib
from attnround.calibration.output_metric import OutputMetric
from attnround.errors import InputError, check_number
from attnround.graph.capture import Captured
from attnround.graph.segment import segment
from attnround.graph.units import Unit, cut
from attnround.quantization.grid import dequantize, per_channel, steps
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.lsq import LEAST
from attnround.quantization.rounding import Rounding, RoundingMethod
from attnround.reconstruction.block_objective import BlockObjective, LayerError, curvature
from attnround.reconstruction.checkpoint import layer_state, restore_layer
from attnround.reconstruction.layer import LayerReconstruction
from attnround.reconstruction.plan import Bench, Reconstruction, Step
from attnround.reconstruction.stopping import EarlyStopping, State
from attnround.reconstruction.unit import UnitWork
from attnround.reconstruction.unit_data import UnitData, gather

CURVATURE_DRAWS = 8  # mini-batches that c is estimated from; each costs a backward pass
LOSSES = ("mse", "logits", "fisher")
EDGE = 0.49  # a rounding starts at most so many steps from the level it is given, which is then the nearest to it
REFINED_EDGE, REFINED_FROM = 0.25, 0.5  # where it refines: that, and the fraction of its schedules that is left out


@dataclass(frozen=True, kw_only=True)
class BlockReconstruction(Reconstruction):
    """The block objective's settings.

    granularity: layer, block (residual, inverted-residual, attention, ...) or network; num_steps: replaces that of the
    quantizer, which suits the layer objective, None keeps it; lr_scale: a factor on the quantizer's rate; minibatch:
    images a step; mix: probability that an element of the input is the float model's; loss: mse; logits, which takes
    errors in the metric of what they do to the logits, channels together; or fisher, which weighs each squared error by
    the squared gradient of the float model's own log-likelihood; activation_lr: Adam's rate for learned scales of
    activations, which falls to zero as a cosine; refine: roundings start close to the levels that they are given and in
    the middle of their schedules; patience: bursts without a decision of smaller error on held-out images after which a
    unit stops, the best one being kept, None: never; layer_first: settings of the layer objective, which then rounds
    the layers of each block first; None starts from nearest.
    """

    granularity: str = "block"
    num_steps: int | None = None
    lr_scale: float = 1.0
    minibatch: int = 32
    mix: float = 0.0
    loss: str = "mse"
    activation_lr: float = 4e-5
    refine: bool = False
    patience: int | None = None
    layer_first: LayerReconstruction | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("reconstruction.minibatch", self.minibatch, least=1, whole=True)
        check_number("reconstruction.lr_scale", self.lr_scale, above=0)
        check_number("reconstruction.mix", self.mix, least=0, most=1)
        check_number("reconstruction.activation_lr", self.activation_lr, above=0)
        if self.num_steps is not None:
            check_number("reconstruction.num_steps", self.num_steps, least=1, whole=True)
        if self.patience is not None:
            check_number("reconstruction.patience", self.patience, least=1, whole=True)
            if not self.held_out:
                raise self.nothing_to_stop_by()
        if self.loss not in LOSSES:
            raise InputError(f"reconstruction.loss={self.loss}: give one of {', '.join(LOSSES)}")

    @property
    def metric(self) -> OutputMetric | None:
        """For the layers that are rounded first."""
        return self.layer_first.metric if self.layer_first else None

    def plan(self, graph: fx.Graph, model: Captured, example: Tensor) -> Sequence[Step]:
        layer_units = {unit.layers[0]: unit for unit in cut(graph, model, "layer", example)}
        plan = []
        for unit in cut(graph, model, self.granularity, example):
            if self.layer_first:
                plan += [Step(self.layer_first, layer_units[name], fork=unit.start) for name in unit.layers]
            plan.append(Step(self, unit))
        return plan

    def adapt(self, quantizer: RoundingMethod) -> RoundingMethod:
        if quantizer.layer_only:
            raise InputError(
                f"quantizer={type(quantizer).__name__} has a closed form for the layer objective alone: "
                "give reconstruction=layer, or another quantizer"
            )
        if not quantizer.num_steps:
            return quantizer
        num_steps = quantizer.num_steps if self.num_steps is None else self.num_steps
        lr = quantizer.lr * self.lr_scale
        if not dataclasses.is_dataclass(quantizer):
            kind = type(quantizer).__name__
            raise InputError(f"{kind} is no dataclass, whose num_steps and lr a block sets: put @dataclass before it")
        return dataclasses.replace(quantizer, num_steps=num_steps, lr=lr)

    def nothing_to_stop_by(self) -> InputError:
        return InputError(
            f"reconstruction.patience={self.patience} and reconstruction.held_out={self.held_out:g}: no image is held "
            "out to stop by; give a larger held_out, more images, or patience=null"
        )

    def begin(self, unit: Unit, bench: Bench) -> "BlockUnit":
        if self.patience is not None and not bench.num_held_out:
            raise self.nothing_to_stop_by()
        cache_mib = budget_mib(self.cache_mib, next(bench.teacher.parameters()).device)
        data = gather(unit, bench, self.batch_size, cache_mib, self.loss)
        layers = {name: bench.student.get_submodule(name) for name in unit.layers}
        weights = {name: bench.teacher.get_submodule(name).weight.detach() for name in unit.layers}
        part = segment(bench.student, unit.start, unit.end)
        return BlockUnit(unit.name, part, layers, weights, data, self, bench)


class BlockUnit(UnitWork):
    """Starts the roundings of all its layers on construction, and takes every step on all of them at once.

    part: the student's nodes of the unit, its layers among them; layers, weights: by name, the weights float.
    """

    def __init__(
        self,
        name: str,
        part: fx.GraphModule,
        layers: dict[str, QuantizedLayer],
        weights: dict[str, Tensor],
        data: UnitData,
        settings: BlockReconstruction,
        bench: Bench,
    ):
        super().__init__(name, f"{settings.granularity} {settings.loss}", layers, weights, bench.quantizer)
        self.part, self.data, self.settings = part, data, settings
        self.generator, self.autocast = bench.generator, bench.autocast
        self.objective = BlockObjective(data, settings.batch_size)
        self.before = self._state()
        self.start_error = self.loss = self._held_out_error()
        self.roundings = {key: self._start_rounding(key) for key in layers}
        self.curvature = self._curvature()
        self.optimizer = self._optimizer()
        self.least_scales = [(scale, LEAST * scale.detach().clone()) for scale in self._learned_scales()]
        self.stopping = None if settings.patience is None else EarlyStopping(settings.patience)

    def _descend(self, steps: range) -> float:
        with self._dropping():
            for step in steps:
                loss = self._step(step / self.quantizer.num_steps)
        if self.stopping:
            self.stopped = self._look(self.stopping)
        return loss.item()

    @torch.no_grad()
    def _look(self, stopping: EarlyStopping) -> bool:
        """Judge the present decision, and go on learning from where it was; return whether to stop."""
        learning = self._state()
        self._bake_present()
        stop = stopping.look(self._held_out_error(), self._state())
        self._restore(learning)
        return stop

    def _state(self) -> State:
        return {key: layer_state(layer) for key, layer in self.layers.items()}

    def _restore(self, state: State) -> None:
        for key, layer in self.layers.items():
            restore_layer(layer, state[key])

    def _step(self, progress: float) -> Tensor:
        images = self._draw()
        for group in self.optimizer.param_groups[1:]:  # learned scales of activations
            group["lr"] = self.settings.activation_lr * (1 + math.cos(math.pi * progress)) / 2
        weights: dict[str, Tensor] = {}
        added: Tensor | float = 0.0
        skipped = REFINED_FROM if self.settings.refine else 0.0
        for key, rounding in self.roundings.items():
            rounding.anneal(skipped + (1 - skipped) * progress)
            mean, variance = rounding.moments()
            weights[key] = self._weight(key, mean)
            added = added + rounding.penalty()
            if variance is not None:
                added = added + (variance * self.curvature[key]).sum()
        output = self._forward(weights, self._input(images))
        loss = self.objective(output, self.data.targets[images], self._loss_weights(images))
        self.optimizer.zero_grad()
        (loss + added).backward()
        self.optimizer.step()
        with torch.no_grad():
            for scale, least in self.least_scales:
                scale.clamp_(min=least)
        for rounding in self.roundings.values():
            rounding.after_step()
        return loss.detach()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        """Within, the quantizers of activations drop (QDrop)."""
        activations = [layer.activation for layer in self.layers.values() if layer.activation is not None]
        for activation in activations:
            activation.dropping = True
        try:
            yield
        finally:
            for activation in activations:
                activation.dropping = False

    def _optimizer(self) -> torch.optim.Optimizer | None:
        """Adam for the roundings and, with a rate of their own, for the learned scales of activations."""
        learned = [parameter for rounding in self.roundings.values() for parameter in rounding.parameters()]
        if not learned:
            return None
        scales = self._learned_scales()
        groups = [{"params": learned}, {"params": scales}] if scales else [{"params": learned}]
        return torch.optim.Adam(groups, self.quantizer.lr, fused=True)

    def _learned_scales(self) -> list[Tensor]:
        """Of activations."""
        scales = [layer.activation.scale for layer in self.layers.values() if layer.activation is not None]
        return [scale for scale in scales if scale.requires_grad]

    def _bake_decision(self) -> None:
        if self.stopping and self.stopping.best:
            self._restore(self.stopping.best)
        else:
            self._bake_present()

    def _bake_present(self) -> None:
        for key, layer in self.layers.items():
            factor = self.roundings[key].gain()
            if factor is not None:
                layer.scale.mul_(factor)
            layer.bake(self.roundings[key].decide(), self.before[key]["layer.bias"])

    def _bake_start(self) -> None:
        self._restore(self.before)

    def _start_rounding(self, key: str) -> Rounding:
        """The rounding of a layer, started from the layer's present levels."""
        layer = self.layers[key]
        images = torch.arange(min(self.settings.minibatch, self.data.num_learned))
        x, target, weight = self.data.quantized[images], self.data.targets[images], self._loss_weights(images)

        def loss_with(mean: Tensor) -> Tensor:
            return self.objective(self._forward({key: self._weight(key, mean)}, x), target, weight)

        levels = layer.levels.to(self.weights[key].dtype)
        u = steps(self.weights[key], layer.scale, layer.zero_point)
        edge = REFINED_EDGE if self.settings.refine else EDGE
        u = torch.minimum(torch.maximum(u, levels - edge), levels + edge)
        return self.quantizer.start(
            u, layer.grid, LayerError(loss_with, self.objective.unit), self.generator, per_channel(layer.zero_point, u)
        )

    def _curvature(self) -> dict[str, Tensor]:
        """By layer, what a variance of 1 level^2 of a weight adds to the loss; empty if no rounding has a variance."""
        if all(rounding.moments()[1] is None for rounding in self.roundings.values()):
            return {}
        draws = []
        for _ in range(CURVATURE_DRAWS):
            images = self._draw()
            draws.append((self.data.quantized[images], self._loss_weights(images)))
        weights = {key: layer.layer.weight.detach() for key, layer in self.layers.items()}
        found = curvature(self._forward, weights, draws, self.generator, self.objective.weighed)
        scales = {key: per_channel(layer.scale, weights[key]) for key, layer in self.layers.items()}
        return {key: c * scales[key].square() * self.objective.percent for key, c in found.items()}

    def _weight(self, key: str, mean: Tensor) -> Tensor:
        return dequantize(mean, self.layers[key].scale, self.layers[key].zero_point)

    def _forward(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        """The unit's output with these weights in place of the layers' own."""
        replaced = {f"{key}.layer.weight": weight for key, weight in weights.items()}
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            return functional_call(self.part, replaced, (x,))

    def _draw(self) -> Tensor:
        available = self.data.num_learned
        return torch.randperm(available, generator=self.generator, device=self.generator.device)[
            : min(self.settings.minibatch, available)
        ]

    def _input(self, images: Tensor) -> Tensor:
        quantized = self.data.quantized[images]
        if not self.settings.mix:
            return quantized
        chance = torch.rand(quantized.shape, generator=self.generator, device=quantized.device)
        return torch.where(chance < self.settings.mix, self.data.inputs[images], quantized)

    def _loss_weights(self, images: Tensor | slice) -> Tensor | None:
        return self.data.weights[images] if self.data.weights else None

    @torch.no_grad()
    def _held_out_error(self) -> float:
        last = len(self.data.inputs)
        first = self.data.num_learned if self.data.num_held_out else 0
        total = 0.0
        for images in batches(first, last, self.settings.batch_size):
            output = self._forward({}, self.data.quantized[images])
            loss = self.objective(output, self.data.targets[images], self._loss_weights(images))
            total += loss.item() * len(output)
        return total / (last - first)
