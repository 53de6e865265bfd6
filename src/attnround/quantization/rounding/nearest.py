"""Rounding to nearest: the baseline that asks nothing of the data."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import Decided, Objective, Quantizer, Rounding


@dataclass(frozen=True)
class Nearest(Quantizer):
    """q = clip(round(u)), a point mass."""

    data_free: ClassVar[bool] = True

    def start(
        self, u: Tensor, grid: Grid, objective: Objective, generator: Generator, zero_point: Tensor | float = 0.0
    ) -> Rounding:
        return Decided(u.round().clamp_(grid.qmin, grid.qmax))
