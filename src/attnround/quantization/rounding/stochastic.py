"""Stochastic rounding: up with the probability that makes the mean exact; needs no data.

Source: Gupta, Agrawal, Gopalakrishnan, Narayanan, "Deep Learning with Limited Numerical Precision", arXiv 1502.02551.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import Decided, Objective, Rounding, RoundingMethod
from attnround.quantization.shapes import Float


@dataclass(frozen=True)
class Stochastic(RoundingMethod):
    """q = clip(floor(u + xi)), xi uniform in [0, 1): E[q] = u inside the range. One seeded draw."""

    data_free: ClassVar[bool] = True

    def start(
        self,
        u: Float[Tensor, " O *rest"],
        grid: Grid,
        objective: Objective,
        generator: Generator,
        zero_point: Float[Tensor, " O *ones"] | float = 0.0,
    ) -> Rounding:
        draw = torch.rand(u.shape, dtype=u.dtype, device=u.device, generator=generator)
        return Decided((u + draw).floor_().clamp_(grid.qmin, grid.qmax))
