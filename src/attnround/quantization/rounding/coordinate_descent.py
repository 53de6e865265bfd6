"""Coordinate descent: every weight in turn takes the best of all levels given the others, until nothing moves.

With e = q - b and the gradient e H, the objective in one weight alone is a parabola with its lowest point at
q_j - (e H)_j / H_jj, so the best level is the nearest to it. Rows are independent and move in parallel.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from attnround.errors import InputError, check_number
from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import Decided, Objective, Quadratic, Rounding, RoundingMethod, as_quadratic
from attnround.quantization.rounding.gptq import BLOCK, round_greedily
from attnround.quantization.shapes import Float

INITS = ("nearest", "gptq")
MARGIN = 1e-4  # steps by which a new level must be nearer to the best point, lest rounding errors make a cycle


@dataclass(frozen=True)
class CoordinateDescent(RoundingMethod):
    """Sweeps over the columns from `init` on, at most `max_sweeps` of them."""

    init: str = "nearest"
    max_sweeps: int = 50
    layer_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("quantizer.max_sweeps", self.max_sweeps, least=1, whole=True)
        if self.init not in INITS:
            raise InputError(f"quantizer.init={self.init}: give one of {', '.join(INITS)}")

    def start(
        self,
        u: Float[Tensor, " O *rest"],
        grid: Grid,
        objective: Objective,
        generator: Generator,
        zero_point: Float[Tensor, " O *ones"] | float = 0.0,
    ) -> Rounding:
        quadratic = as_quadratic(objective)
        if self.init == "gptq":
            levels = round_greedily(quadratic.centre, quadratic.second, grid, order="activation").to(u.dtype)
        else:
            levels = u.round().clamp_(grid.qmin, grid.qmax)
        return Decided(polish(levels.reshape(u.shape), grid, quadratic, self.max_sweeps))


def polish(
    levels: Float[Tensor, " O *rest"], grid: Grid, objective: Quadratic, max_sweeps: int = 50
) -> Float[Tensor, " O *rest"]:
    """Move levels until no change of a single one lowers the objective."""
    rows = levels.reshape(objective.centre.shape)
    return descend_coordinates(rows, objective.centre, objective.second, grid, max_sweeps).reshape(levels.shape)


@torch.no_grad()
def descend_coordinates(
    levels: Float[Tensor, "G o n"],
    centre: Float[Tensor, "G o n"],
    second: Float[Tensor, "G n n"],
    grid: Grid,
    max_sweeps: int,
) -> Float[Tensor, "G o n"]:
    """A local minimum of (q - b) H (q - b)^T over the grid; levels q, centre b, second H.

    The gradient is updated column by column within a block of 128 columns, by one matrix product for all columns after
    the block, and computed anew for each sweep.
    """
    levels, num_columns = levels.clone(), levels.shape[2]
    for _ in range(max_sweeps):
        slope, moved = (levels - centre) @ second, False
        for first in range(0, num_columns, BLOCK):
            last = min(first + BLOCK, num_columns)
            block, within = slope[:, :, first:last], second[:, first:last, first:last]
            before = levels[:, :, first:last].clone()
            for i in range(last - first):
                level = levels[:, :, first + i]
                best_point = level - block[:, :, i] / within[:, i, i, None]
                best = best_point.round().clamp_(grid.qmin, grid.qmax)
                nearer = (level - best_point).abs_() - (best - best_point).abs_() > MARGIN
                step = (best - level).mul_(nearer)
                level += step
                block.addcmul_(step[:, :, None], within[:, i, None, :])
            change = levels[:, :, first:last] - before
            if change.any():
                moved = True
                slope[:, :, last:] += change @ second[:, first:last, last:]
        if not moved:
            break
    return levels
