"""Rounding to nearest: the baseline that asks nothing of the data."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import Objective, Quantizer, Rounding


@dataclass(frozen=True)
class Nearest(Quantizer):
    """q = clip(round(u)), a point mass."""

    data_free: ClassVar[bool] = True

    def start(self, u: Tensor, grid: Grid, objective: Objective) -> Rounding:
        return _Nearest(u, grid)


class _Nearest(Rounding):
    def __init__(self, u: Tensor, grid: Grid):
        super().__init__()
        self.register_buffer("levels", u.round().clamp_(grid.qmin, grid.qmax))

    def moments(self) -> tuple[Tensor, None]:
        return self.levels, None

    def decide(self) -> Tensor:
        return self.levels
