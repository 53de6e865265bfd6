"""Rounding to nearest, the baseline: without data, or with scales and biases that are found from data directly."""

from dataclasses import dataclass

from torch import Generator, Tensor

from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import Decided, Objective, Rounding, RoundingMethod
from attnround.quantization.shapes import Float


@dataclass(frozen=True)
class Nearest(RoundingMethod):
    """q = clip(round(u)), a point mass.

    calibrated: on the scales, and with the corrected biases, that the layer objective finds from calibration images.
    """

    calibrated: bool = False

    @property
    def data_free(self) -> bool:
        return not self.calibrated

    def start(
        self,
        u: Float[Tensor, " O *rest"],
        grid: Grid,
        objective: Objective,
        generator: Generator,
        zero_point: Float[Tensor, " O *ones"] | float = 0.0,
    ) -> Rounding:
        return Decided(u.round().clamp_(grid.qmin, grid.qmax))
