"""GPTQ: column by column, each rounding error compensated by the columns that are not yet rounded.

Source: Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", arXiv 2210.17323; the column order by descending second moment is the option `act-order` of its code.

With the best real-valued levels b and the second moment H = R R^T, R upper triangular, the objective is |(q - b) R|^2
row by row. Its term of column j holds R_jj (q_j - b_j) and the errors of columns before it, no later ones: so

    q_j = clip(round(b_j - sum_{i<j} (q_i - b_i) R_ij / R_jj))

and the columns not yet rounded can cancel what the earlier ones add to their terms. R^-1 is the factor of H^-1 that the
paper updates b with; this is the same recursion, written with sums in place of updates, and H is never inverted.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from attnround.errors import InputError, check_number
from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import Decided, Objective, Rounding, RoundingMethod, as_quadratic
from attnround.quantization.shapes import Float, Float64

BLOCK = 128  # columns that wait for one matrix product, as in the paper's lazy batches
ORDERS = ("natural", "activation")


@dataclass(frozen=True)
class GPTQ(RoundingMethod):
    """Greedy rounding of the columns, in their order or by descending second moment of their inputs.

    damping: added to H's diagonal, as a fraction of its mean, on top of the objective's own ridge.
    """

    damping: float = 0.0
    order: str = "activation"
    layer_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("quantizer.damping", self.damping, least=0)
        if self.order not in ORDERS:
            raise InputError(f"quantizer.order={self.order}: give one of {', '.join(ORDERS)}")

    def start(
        self,
        u: Float[Tensor, " O *rest"],
        grid: Grid,
        objective: Objective,
        generator: Generator,
        zero_point: Float[Tensor, " O *ones"] | float = 0.0,
    ) -> Rounding:
        quadratic = as_quadratic(objective)
        levels = round_greedily(quadratic.centre, quadratic.second, grid, self.damping, self.order)
        return Decided(levels.reshape(u.shape).to(u.dtype))


@torch.no_grad()
def round_greedily(
    centre: Float[Tensor, "G o n"],
    second: Float[Tensor, "G n n"],
    grid: Grid,
    damping: float = 0.0,
    order: str = "natural",
) -> Float64[Tensor, "G o n"]:
    """Levels for the real-valued ones `centre` under the second moment, which is positive definite.

    In float64, as decisions hang on differences of sums over up to thousands of columns; most of the time goes into the
    Cholesky factor in any case.
    """
    centre, second = centre.double(), second.double()
    diagonal = second.diagonal(dim1=1, dim2=2)
    second = second + damping * torch.diag_embed(diagonal.mean(1, keepdim=True).expand_as(diagonal))
    if order == "activation":
        places = diagonal.argsort(dim=1, descending=True, stable=True)
        rows, columns = places[:, :, None].expand_as(second), places[:, None, :]
        second = second.gather(1, rows).gather(2, columns.expand_as(second))
        centre = centre.gather(2, columns.expand_as(centre))
    factor = torch.linalg.cholesky(second.flip(1, 2)).flip(1, 2)
    factor = factor / factor.diagonal(dim1=1, dim2=2)[:, None, :]
    error, num_columns = torch.zeros_like(centre), centre.shape[2]
    for first in range(0, num_columns, BLOCK):
        end = min(first + BLOCK, num_columns)
        wanted = centre[:, :, first:end] - error[:, :, :first] @ factor[:, :first, first:end]
        within, made = factor[:, first:end, first:end], error[:, :, first:end]
        for i in range(end - first):
            target = wanted[:, :, i] - (made[:, :, :i] @ within[:, :i, i : i + 1])[:, :, 0]
            made[:, :, i] = target.round_().clamp_(grid.qmin, grid.qmax) - centre[:, :, first + i]
    levels = (centre + error).round_()
    return torch.zeros_like(levels).scatter_(2, columns.expand_as(levels), levels) if order == "activation" else levels
