"""Rounding to nearest: the baseline that asks nothing of the data, or no more than what it gives in closed form."""

from dataclasses import dataclass

from torch import Generator, Tensor

from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import Decided, Objective, Quantizer, Rounding


@dataclass(frozen=True)
class Nearest(Quantizer):
    """q = clip(round(u)), a point mass.

    calibrated: on scales that the objective finds from the calibration images, and with biases corrected by them.
    """

    calibrated: bool = False

    @property
    def data_free(self) -> bool:
        return not self.calibrated

    def start(
        self, u: Tensor, grid: Grid, objective: Objective, generator: Generator, zero_point: Tensor | float = 0.0
    ) -> Rounding:
        return Decided(u.round().clamp_(grid.qmin, grid.qmax))
