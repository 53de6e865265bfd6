"""The layer objective's unit: a layer, from the moments of its inputs to the integers of its weight."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from attnround.calibration.moments import Moments, MomentSums
from attnround.calibration.output_metric import DAMPING, OutputMetric, factor_of
from attnround.errors import InputError, check_number
from attnround.graph.branches import Branches, find_branches
from attnround.graph.capture import Captured
from attnround.graph.kinds import grouped_rows
from attnround.graph.patches import Patches
from attnround.graph.units import Unit, cut
from attnround.quantization.grid import per_channel, quantize, steps
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.rounding import Objective, Rounding, RoundingMethod
from attnround.reconstruction.objective import TINY, LayerObjective, best_target, corrected_bias, output_error
from attnround.reconstruction.plan import Bench, Reconstruction, Step
from attnround.reconstruction.ridge import USUAL, choose_ridges
from attnround.reconstruction.unit import UnitWork

NUM_MATRICES = 6  # float64 matrices [n, n] in memory at once: sums, means, their factor, those of held-out images


@dataclass(frozen=True, kw_only=True)
class LayerReconstruction(Reconstruction):
    """The layer objective's settings.

    ridge: how strongly weights are pulled to their float values, as a fraction of the inputs' mean second moment; None:
    layer by layer what `choose_ridges` finds, 0.01 where no images are held out; rounding_ridge: whether it then finds
    one for the rounding too, in place of the target's; num_positions: output positions of an image that enter the
    moments; output_metric: `logits` or `fisher`, with the next two as `OutputMetric` has them, or `none`;
    metric_damping: the share of the metric in which all outputs count alike; residual_target: a layer learns to make up
    for the drift of what is added to its output, as far as that is final; refit_scale: fit the scales of a decided
    layer to its levels by least squares.
    """

    by_moments = True

    ridge: float | None = None
    rounding_ridge: bool = True
    num_positions: int = 49
    output_metric: str = "logits"
    num_projections: int = 2
    metric_images: int = 256
    metric_damping: float = DAMPING
    residual_target: bool = True
    refit_scale: bool = False

    @property
    def metric(self) -> OutputMetric | None:
        if self.output_metric == "none":
            return None
        return OutputMetric(self.output_metric, self.num_projections, self.metric_images)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ridge is not None:
            check_number("reconstruction.ridge", self.ridge, above=0)
        check_number("reconstruction.metric_damping", self.metric_damping, least=0, most=1)
        _ = self.metric  # raises InputError for an unknown one
        check_number("reconstruction.num_positions", self.num_positions, least=1, whole=True)

    def plan(self, graph: fx.Graph, model: Captured, example: Tensor) -> Sequence[Step]:
        return [Step(self, unit) for unit in cut(graph, model, "layer", example)]

    def adapt(self, quantizer: RoundingMethod) -> RoundingMethod:
        return quantizer

    def begin(self, unit: Unit, bench: Bench) -> "LayerUnit":
        name = unit.name
        check_memory(name, bench.teacher.get_submodule(name).weight, bench.quantizer)
        float_layer, layer = bench.teacher.get_submodule(name), bench.student.get_submodule(name)
        positions = torch.Generator().manual_seed(bench.generator.initial_seed())  # on the CPU: alike on any device
        patches = Patches(float_layer, self.num_positions, positions)
        metric = bench.metrics.get(name)
        factor = None if metric is None else factor_of(metric, self.metric_damping)
        learned = MomentSums(float_layer, patches, factor)
        held_out = MomentSums(float_layer, patches, factor) if bench.num_held_out else learned
        branches = find_branches(name, bench.graph, bench.teacher) if self.residual_target else Branches()
        for node in (unit.start, *unit.more_inputs):
            keep = None if node is unit.start else False  # what lies between a layer's calls will run again
            for i, both in enumerate(bench.walk.values_of([node, *branches.operands], keep)):
                sums = learned if i < bench.num_learned_batches else held_out
                if both is None:
                    sums.skip(bench.walk.sizes[i])
                    continue
                x, x_quantized = (values[node] for values in both)
                if layer.activation is not None:  # the weights then make up for the input's error too
                    x_quantized = layer.activation(x_quantized)
                sums.add(x, x_quantized, branches.residual(*both))
        moments = learned.moments()
        held_out_moments = held_out.moments() if bench.num_held_out else moments
        return LayerUnit(name, float_layer, layer, moments, held_out_moments, bench.quantizer, self, bench.generator)


def check_memory(name: str, weight: Tensor, quantizer: RoundingMethod) -> None:
    """Raise InputError where a layer has so many inputs that their second moments exceed the machine's memory."""
    num_inputs = weight[0].numel()
    needed = NUM_MATRICES * 8 * num_inputs**2 / 2**30
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    if needed > there:
        raise InputError(
            f"{name}: the second moments of its {num_inputs} inputs need {needed:.0f} GiB and this machine has "
            f"{there:.0f}: give {'nearest, or adaround with ' if quantizer.layer_only else ''}reconstruction=block"
        )


class LayerUnit(UnitWork):
    """Starts the rounding of its layer on construction.

    moments: of the layer's inputs for the images learned from; held_out: the same for those kept from learning;
    target: the best real-valued weight [O, *rest], which is what is rounded. Raises InputError that names the layer
    where inputs or losses are not finite.
    """

    def __init__(
        self,
        name: str,
        float_layer: nn.Module,
        layer: QuantizedLayer,
        moments: Moments,
        held_out: Moments,
        quantizer: RoundingMethod,
        settings: LayerReconstruction,
        generator: torch.Generator,
    ):
        weight = float_layer.weight.detach()
        super().__init__(name, "layer", {name: layer}, {name: weight}, quantizer)
        self.float_layer, self.layer, self.settings = float_layer, layer, settings
        self.moments, self.held_out = moments, held_out
        if not (moments.is_finite() and held_out.is_finite()):
            raise InputError(
                f"{name}: its inputs hold NaN or infinity, or its outputs are too large for float32; the checkpoint or "
                "an image is broken"
            )
        self.rows = grouped_rows(float_layer, weight)
        target = best_target(self.rows, moments, *self._ridges())
        self.target = target.rows.to(weight.dtype).reshape(weight.shape)
        self._find_scale()
        self.objective = LayerObjective(target, moments, layer.scale, layer.zero_point)
        self.start_scale, float_bias = layer.scale.clone(), float_layer.bias
        self.float_bias = torch.zeros_like(layer.layer.bias) if float_bias is None else float_bias.detach()
        self.start_levels = quantize(weight, layer.scale, layer.zero_point, layer.grid)
        layer.bake(self.start_levels)
        self.start_error = self._held_out_error()
        u = steps(self.target, layer.scale, layer.zero_point)
        zero_point = per_channel(layer.zero_point, u)
        self.rounding = self.quantizer.start(u, layer.grid, self.objective, generator, zero_point)
        self.loss = self.objective(*self.rounding.moments()).item()
        learned = list(self.rounding.parameters())
        self.optimizer = torch.optim.Adam(learned, self.quantizer.lr, fused=True) if learned else None

    def _ridges(self) -> tuple[float, float]:
        """Of the target and of the rounding."""
        if self.settings.ridge is not None:
            return self.settings.ridge, self.settings.ridge
        if self.held_out is self.moments:
            return USUAL, USUAL
        target, rounding = choose_ridges(self.moments, self.held_out)
        return target, rounding if self.settings.rounding_ridge else target

    def _find_scale(self) -> None:
        """The scale for the best real-valued weight, whose range is another than the float one where inputs drift."""
        importance = None
        if self.settings.observer.input_weighted:
            diagonal = self.moments.second.diagonal(dim1=1, dim2=2)[:, None, :].clamp(min=0)
            diagonal = (diagonal + USUAL * diagonal.mean(2, keepdim=True) + TINY).to(self.target.dtype)
            importance = diagonal.expand(self.rows.shape).reshape(self.target.shape)
        scale, zero_point = self.settings.observer.search(self.target, self.layer.grid, importance)
        self.layer.scale.copy_(self.layer.with_room(scale, self.layer.layer.bias))
        self.layer.zero_point.copy_(zero_point)

    def _descend(self, steps: range) -> float:
        return descend(self.rounding, self.objective, self.optimizer, steps, self.quantizer.num_steps)

    def _bake_decision(self) -> None:
        levels = self.rounding.decide()
        factor = self.objective.best_factor(levels) if self.settings.refit_scale else self.rounding.gain()
        self._bake(levels, self.start_scale if factor is None else self.start_scale * factor)

    def _bake_start(self) -> None:
        self._bake(self.start_levels, self.start_scale)

    def _bake(self, levels: Tensor, scale: Tensor) -> None:
        """Take these levels and scales, and the bias that then keeps the float layer's mean output."""
        self.layer.scale.copy_(scale)
        self.layer.bake(levels)
        self.layer.take_bias(corrected_bias(self.float_bias, self.rows, self._quantized_rows(), self.moments))

    def _held_out_error(self) -> float:
        return output_error(self.rows, self._quantized_rows(), self.held_out)

    def _quantized_rows(self) -> Tensor:
        return grouped_rows(self.float_layer, self.layer.layer.weight.detach())

    def _nearest(self, key: str) -> Tensor:
        """Those on the scales that the rounding started from, also where it ends with others."""
        return self.start_levels


def descend(
    rounding: Rounding, objective: Objective, optimizer: torch.optim.Optimizer, steps: range, num_steps: int
) -> float:
    """Take these of the `num_steps` steps; return the last objective (without the method's own penalty)."""
    error: Tensor | float = float("nan")
    for step in steps:
        rounding.anneal(step / num_steps)
        error = rounding.step(objective, optimizer)
    return float(error)
