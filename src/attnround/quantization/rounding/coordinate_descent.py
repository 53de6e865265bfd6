"""Coordinate descent: every weight in turn takes the best of all levels given the others, until nothing moves.

With e = q - b and the gradient e H, the objective in one weight alone is a parabola with its lowest point at
q_j - (e H)_j / H_jj, so the best level is the nearest to it. Rows are independent and move in parallel.

Where a coupling M makes them depend on each other, the objective is tr(e^T M e H), its slope M e H and the lowest point
q_ij - (M e H)_ij / (M_ii H_jj). The moves d of a column j change it by

    sum_i d_i (2 (M e H)_ij + d_i M_ii H_jj)  +  2 H_jj sum_{k<i} d_i M_ik d_k,

what they change alone and what they change together: only those are made that lower it together.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from attnround.errors import InputError, check_number
from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import Decided, Objective, Quadratic, Rounding, RoundingMethod, as_quadratic
from attnround.quantization.rounding.gptq import BLOCK, greedy_levels
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
            levels = greedy_levels(quadratic, grid).to(u.dtype)
        else:
            levels = u.round().clamp_(grid.qmin, grid.qmax)
        return Decided(polish(levels.reshape(u.shape), grid, quadratic, self.max_sweeps))


def polish(
    levels: Float[Tensor, " O *rest"], grid: Grid, objective: Quadratic, max_sweeps: int = 50
) -> Float[Tensor, " O *rest"]:
    """Move levels until no change of a single one lowers the objective."""
    rows = levels.reshape(objective.centre.shape)
    rows = descend_coordinates(rows, objective.centre, objective.second, grid, max_sweeps, objective.coupling)
    return rows.reshape(levels.shape)


@torch.no_grad()
def descend_coordinates(
    levels: Float[Tensor, "G o n"],
    centre: Float[Tensor, "G o n"],
    second: Float[Tensor, "G n n"],
    grid: Grid,
    max_sweeps: int,
    coupling: Float[Tensor, "G o o"] | None = None,
) -> Float[Tensor, "G o n"]:
    """A local minimum of tr(M (q - b) H (q - b)^T) over the grid; levels q, centre b, second H.

    coupling: M, None where rows are independent and any weight on a row's error leaves its minimum where it is.
    The gradient is updated column by column within a block of 128 columns, by one matrix product for all columns after
    the block, and computed anew for each sweep.
    """
    levels, num_columns = levels.clone(), levels.shape[2]
    gain = 1.0 if coupling is None else coupling.diagonal(dim1=1, dim2=2)
    for _ in range(max_sweeps):
        slope, moved = _coupled((levels - centre) @ second, coupling), False
        for first in range(0, num_columns, BLOCK):
            last = min(first + BLOCK, num_columns)
            block, within = slope[:, :, first:last], second[:, first:last, first:last]
            before = levels[:, :, first:last].clone()
            for i in range(last - first):
                level, curvature = levels[:, :, first + i], within[:, i, i, None] * gain
                best_point = level - block[:, :, i] / curvature
                best = best_point.round().clamp_(grid.qmin, grid.qmax)
                nearer = (level - best_point).abs_() - (best - best_point).abs_() > MARGIN
                step = push = (best - level).mul_(nearer)
                if coupling is not None:
                    alone = step * (2 * block[:, :, i] + step * curvature)
                    step, push = _lower_together(step, alone, coupling, within[:, i, i, None])
                level += step
                block.addcmul_(push[:, :, None], within[:, i, None, :])
            change = levels[:, :, first:last] - before
            if change.any():
                moved = True
                slope[:, :, last:] += _coupled(change, coupling) @ second[:, first:last, last:]
        if not moved:
            break
    return levels


def _coupled(rows: Float[Tensor, "G o n"], coupling: Float[Tensor, "G o o"] | None) -> Float[Tensor, "G o n"]:
    return rows if coupling is None else coupling @ rows


def _lower_together(
    step: Float[Tensor, "G o"],
    alone: Float[Tensor, "G o"],
    coupling: Float[Tensor, "G o o"],
    moment: Float[Tensor, "G 1"],
) -> tuple[Float[Tensor, "G o"], Float[Tensor, "G o"]]:
    """The moves d of a column that lower the objective together, and M d.

    step: the moves that rows would make; alone: what each changes by itself, negative where there is a move; moment:
    H_jj. They are made in the order of `alone` up to where the joint change is lowest, the first one always.
    """
    num_moves = max(1, int((step != 0).sum(1).max()))
    alone, places = alone.topk(num_moves, dim=1, largest=False)
    moves = step.gather(1, places)
    rows = coupling.take_along_dim(places[:, :, None], 1)
    among = rows.take_along_dim(places[:, None, :], 2)
    change = (alone + 2 * moment * moves * (among.tril(-1) @ moves[:, :, None])[:, :, 0]).cumsum(1)
    moves *= torch.arange(num_moves, device=step.device) <= change.argmin(1, keepdim=True)
    return torch.zeros_like(step).scatter_(1, places, moves), (moves[:, None, :] @ rows)[:, 0]
