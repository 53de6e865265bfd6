"""One unit of the layer objective: a layer, from the moments of its inputs to the integers of its weight."""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from attnround.errors import InputError
from attnround.models.patches import Patches, grouped_rows
from attnround.quantization.grid import dequantize, quantize, steps
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import ClipSearch, sqnr_db
from attnround.quantization.rounding import Quantizer
from attnround.reconstruction.loop import descend
from attnround.reconstruction.moments import gather_moments
from attnround.reconstruction.objective import TINY, LayerObjective, corrected_bias


@dataclass(frozen=True)
class LayerReport:
    """What a layer's reconstruction gave. Errors are on the calibration images, SQNR in dB, `moved` in percent.

    output_sqnr_db is of the layer's output for the inputs of the model quantized so far, against the float model's, the
    bias corrected; nearest_output_sqnr_db the same for rounding to nearest there; moved: weights not at their nearest.
    """

    name: str
    kind: str
    shape: list[int]
    num_weights: int
    bits: int
    weight_sqnr_db: float
    nearest_output_sqnr_db: float
    output_sqnr_db: float
    moved: float
    seconds: float

    def row(self) -> dict[str, object]:
        """The report as plain values."""
        return asdict(self)


class LayerUnit:
    """Gathers moments on construction; `run` takes steps; `finish` decides, corrects the bias and bakes.

    Raises InputError that names the layer where inputs or losses are not finite.
    """

    def __init__(
        self,
        name: str,
        float_layer: nn.Module,
        layer: QuantizedLayer,
        inputs: Iterable[tuple[Tensor, Tensor]],
        quantizer: Quantizer,
        observer: ClipSearch,
        patches: Patches,
        ridge: float,
    ):
        self.begun = time.perf_counter()
        self.name, self.float_layer, self.layer, self.quantizer = name, float_layer, layer, quantizer
        weight = float_layer.weight.detach()
        self.moments = gather_moments(float_layer, inputs, patches)
        if not (self.moments.second.isfinite().all() and self.moments.drift.isfinite().all()):
            raise InputError(f"{name}: its inputs hold NaN or infinity; the checkpoint or an image is broken")
        if observer.input_weighted:
            diagonal = self.moments.second.diagonal(dim1=1, dim2=2)[:, None, :].clamp(min=0)
            diagonal = (diagonal + ridge * diagonal.mean(2, keepdim=True) + TINY).to(weight.dtype)
            importance = diagonal.expand(grouped_rows(float_layer, weight).shape).reshape(weight.shape)
            scale, zero_point = observer.search(weight, layer.grid, importance)
            layer.scale.copy_(scale)
            layer.zero_point.copy_(zero_point)
        self.objective = LayerObjective(
            grouped_rows(float_layer, weight), self.moments, layer.scale, layer.zero_point, ridge
        )
        self.nearest = quantize(weight, layer.scale, layer.zero_point, layer.grid)
        u = steps(weight, layer.scale, layer.zero_point)
        self.rounding = quantizer.start(u, layer.grid, self.objective)
        self.loss = self.objective(self.nearest).item()
        learned = list(self.rounding.parameters())
        self.optimizer = torch.optim.Adam(learned, quantizer.lr) if learned else None

    @torch.enable_grad()
    def run(self, steps: range) -> None:
        """Take these of the quantizer's steps."""
        if self.optimizer is None:
            return
        self.loss = descend(self.rounding, self.objective, self.optimizer, steps, self.quantizer.num_steps)
        if not self.loss < float("inf"):
            raise InputError(f"{self.name}: the loss became {self.loss}; lower quantizer.lr={self.quantizer.lr}")

    @torch.no_grad()
    def finish(self) -> LayerReport:
        """Bake the decided levels, and with them the bias that keeps the mean output."""
        levels, bias = self.rounding.decide(), None
        weight, quantized = self.float_layer.weight, dequantize(levels, self.layer.scale, self.layer.zero_point)
        if not self.quantizer.data_free:
            rows = [grouped_rows(self.float_layer, each) for each in (weight, quantized)]
            bias = corrected_bias(self.layer.layer.bias, *rows, self.moments)
        self.layer.bake(levels, bias)
        return LayerReport(
            name=self.name,
            kind=type(self.float_layer).__name__,
            shape=list(weight.shape),
            num_weights=weight.numel(),
            bits=self.layer.grid.bit_width,
            weight_sqnr_db=sqnr_db(weight, quantized),
            nearest_output_sqnr_db=self.objective.sqnr_db(self.nearest),
            output_sqnr_db=self.objective.sqnr_db(levels),
            moved=100 * (levels != self.nearest).double().mean().item(),
            seconds=time.perf_counter() - self.begun,
        )
