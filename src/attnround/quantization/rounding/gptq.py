"""GPTQ: column by column, each rounding error compensated by the columns that are not yet rounded.

Source: Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", arXiv 2210.17323; the column order by descending second moment is the option `act-order` of its code.

With the best real-valued levels b and the second moment H = R R^T, R upper triangular, the objective is |(q - b) R|^2
row by row. Its term of column j holds R_jj (q_j - b_j) and the errors of columns before it, no later ones: so

    q_j = clip(round(b_j - sum_{i<j} (q_i - b_i) R_ij / R_jj))

and the columns not yet rounded can cancel what the earlier ones add to their terms. R^-1 is the factor of H^-1 that the
paper updates b with; this is the same recursion, written with sums in place of updates, and H is never inverted.

Where rows are coupled by M, the objective is tr(e^T M e H) with e = q - b. This is the Kronecker-factored Hessian of
K-FAC (Martens, Grosse, arXiv 1503.05671), which YAQA (Tseng, Sun, De Sa, arXiv 2505.22988) rounds with. With
M = U^T C U, U unit lower triangular, and H = R D R^T, R now unit upper triangular, C and D diagonal, it is
sum_ij C_i D_j (U e R)_ij^2, whose term of row i and column j holds errors above and to the left of (i, j) alone:

    q_ij = clip(round(b_ij - sum_{k<i} U_ik e_kj - sum_{l<j} f_il R_lj))     f_ij = e_ij + sum_{k<i} U_ik e_kj

All (i, j) with the same i + j are rounded at once; the rows' order is by descending M_ii as the columns' is by H_jj.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from attnround.errors import InputError, check_number
from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import (
    Decided,
    Objective,
    Quadratic,
    Rounding,
    RoundingMethod,
    as_quadratic,
)
from attnround.quantization.shapes import Float, Float64, Int

BLOCK = 128  # columns that wait for one matrix product, as in the paper's lazy batches
TILE = 32  # coupled rows, and columns, that wait for one matrix product
ORDERS = ("natural", "activation")
NEXT_TO_NONE = 1e-30  # of the largest squared scale


@dataclass(frozen=True)
class GPTQ(RoundingMethod):
    """Greedy rounding of the columns, in their order or by descending second moment of their inputs.

    damping: added to H's diagonal, as a fraction of its mean, on top of the objective's own ridge. The coupling of rows
    is a damped one already, and stays as it is.
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
        levels = greedy_levels(as_quadratic(objective), grid, self.damping, self.order)
        return Decided(levels.reshape(u.shape).to(u.dtype))


def greedy_levels(
    objective: Quadratic, grid: Grid, damping: float = 0.0, order: str = "activation"
) -> Float64[Tensor, "G o n"]:
    """What GPTQ makes of a quadratic objective."""
    return round_greedily(objective.centre, objective.second, grid, damping, order, objective.coupling)


@torch.no_grad()
def round_greedily(
    centre: Float[Tensor, "G o n"],
    second: Float[Tensor, "G n n"],
    grid: Grid,
    damping: float = 0.0,
    order: str = "natural",
    coupling: Float[Tensor, "G o o"] | None = None,
) -> Float64[Tensor, "G o n"]:
    """Levels for the real-valued ones `centre` under the second moment and the coupling, which are positive definite.

    In float64, as decisions hang on differences of sums over up to thousands of columns; most of the time goes into the
    Cholesky factor in any case.
    """
    centre, second = centre.double(), second.double()
    diagonal = second.diagonal(dim1=1, dim2=2)
    second = second + damping * torch.diag_embed(diagonal.mean(1, keepdim=True).expand_as(diagonal))
    columns = _places(second, order)
    centre, factor = centre.take_along_dim(columns[:, None, :], 2), _factor(second, columns)
    if coupling is None:
        levels = centre + _round_columns(centre, factor, grid)
    else:
        coupling = _positive(coupling.double())
        rows = _places(coupling, order)
        centre = centre.take_along_dim(rows[:, :, None], 1)
        levels = centre + _round_tiles(centre, _factor(coupling, rows).mT, factor, grid)
        levels = levels.take_along_dim(rows.argsort(1)[:, :, None], 1)
    return levels.round_().take_along_dim(columns.argsort(1)[:, None, :], 2)


def _positive(coupling: Float64[Tensor, "G o o"]) -> Float64[Tensor, "G o o"]:
    """Rows of next to no scale, of whose squares float32 holds too little, coupled to no other."""
    diagonal = coupling.diagonal(dim1=1, dim2=2)
    counts = diagonal > NEXT_TO_NONE * diagonal.amax(1, keepdim=True)
    return coupling * counts[:, :, None] * counts[:, None, :] + torch.diag_embed((~counts).double())


def _places(matrix: Float[Tensor, "G n n"], order: str) -> Int[Tensor, "G n"]:
    """Where in the matrix the rows and columns stand that are rounded first, second, ..."""
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    if order == "activation":
        return diagonal.argsort(dim=1, descending=True, stable=True)
    return torch.arange(diagonal.shape[1], device=diagonal.device).expand(diagonal.shape)


def _factor(matrix: Float64[Tensor, "G n n"], places: Int[Tensor, "G n"]) -> Float64[Tensor, "G n n"]:
    """R, unit upper triangular, of the matrix in this order, R D R^T."""
    matrix = matrix.take_along_dim(places[:, :, None], 1).take_along_dim(places[:, None, :], 2)
    factor = torch.linalg.cholesky(matrix.flip(1, 2)).flip(1, 2)
    return factor / factor.diagonal(dim1=1, dim2=2)[:, None, :]


def _round_columns(
    centre: Float64[Tensor, "G o n"], factor: Float64[Tensor, "G n n"], grid: Grid
) -> Float64[Tensor, "G o n"]:
    """The errors of independent rows, which all round a column at once."""
    error, num_columns = torch.zeros_like(centre), centre.shape[2]
    for first in range(0, num_columns, BLOCK):
        end = min(first + BLOCK, num_columns)
        wanted = centre[:, :, first:end] - error[:, :, :first] @ factor[:, :first, first:end]
        within, made = factor[:, first:end, first:end], error[:, :, first:end]
        for i in range(end - first):
            target = wanted[:, :, i] - (made[:, :, :i] @ within[:, :i, i : i + 1])[:, :, 0]
            made[:, :, i] = target.round_().clamp_(grid.qmin, grid.qmax) - centre[:, :, first + i]
    return error


def _round_tiles(
    centre: Float64[Tensor, "G o n"], rows: Float64[Tensor, "G o o"], columns: Float64[Tensor, "G n n"], grid: Grid
) -> Float64[Tensor, "G o n"]:
    """The errors of coupled rows, for rows U and columns R: the tiles of an antidiagonal are rounded at once.

    They wait only for tiles above them and to their left, whose errors reach them by one matrix product each. Columns
    are held in reverse, since antidiagonals are diagonals then, of which torch has views. The tiles at the edges are
    filled up with rows and columns that nothing depends on.
    """
    _, num_rows, num_columns = centre.shape
    height, width = min(TILE, num_rows), min(TILE, num_columns)
    more_rows, more_columns = -num_rows % height, -num_columns % width
    centre = pad(centre.flip(2), (0, more_columns, 0, more_rows))
    rows = pad(rows, (0, more_rows, 0, more_rows))
    columns = pad(columns.flip(1, 2), (0, more_columns, 0, more_columns))
    rows_within = _tiles(rows, height, height, 0).tril(-1)
    columns_within = _tiles(columns, width, width, 0).tril(-1)
    error, fed = torch.zeros_like(centre), torch.zeros_like(centre)  # e and f
    num_down, num_across = centre.shape[1] // height, centre.shape[2] // width
    for offset in range(num_across - 1, -num_down, -1):
        first, end = max(0, -offset), min(num_down, num_across - offset)
        middle = _tiles(centre, height, width, offset)
        above, left = torch.empty_like(middle), torch.empty_like(middle)
        for i in range(first, end):
            row, column = slice(i * height, (i + 1) * height), slice((i + offset) * width, (i + offset + 1) * width)
            above[:, i - first] = rows[:, row, : row.start] @ error[:, : row.start, column]
            left[:, i - first] = fed[:, row, column.stop :] @ columns[:, column.stop :, column]
        within = rows_within[:, first:end], columns_within[:, first + offset : end + offset]
        made = _round_within(middle, above, left, *within, grid)
        _tiles(error, height, width, offset).copy_(made)
        _tiles(fed, height, width, offset).copy_(made + above)
    return error[:, :num_rows, :num_columns].flip(2)


def _tiles(matrix: Float64[Tensor, "G o n"], height: int, width: int, offset: int) -> Float64[Tensor, "G t h w"]:
    """A view of the tiles on a diagonal."""
    tiles = matrix.unflatten(2, (-1, width)).unflatten(1, (-1, height))
    return tiles.diagonal(offset, 1, 3).movedim(-1, 1)


def _round_within(
    centre: Float64[Tensor, "G t h w"],
    above: Float64[Tensor, "G t h w"],
    left: Float64[Tensor, "G t h w"],
    rows: Float64[Tensor, "G t h h"],
    columns: Float64[Tensor, "G t w w"],
    grid: Grid,
) -> Float64[Tensor, "G t h w"]:
    """The errors of tiles, diagonal by diagonal, each added to what later ones have to make up for, `above` and `left`.

    These are sum_{k<i} U_ik e_kj and sum_{l<j} f_il R_lj, with the tiles before in them already.
    """
    height, width = centre.shape[2:]
    error = torch.empty_like(centre)
    for offset in range(width - 1, -height, -1):
        first, end = max(0, -offset), min(height, width - offset)
        row, column = slice(first, end), slice(first + offset, end + offset)
        middle, over = centre.diagonal(offset, 2, 3), above.diagonal(offset, 2, 3)
        target = middle - over - left.diagonal(offset, 2, 3)
        made = target.round_().clamp_(grid.qmin, grid.qmax).sub_(middle)
        error.diagonal(offset, 2, 3).copy_(made)
        left[:, :, row].addcmul_((made + over)[..., None], columns[:, :, column])
        above[:, :, :, column].addcmul_(rows[:, :, :, row], made[:, :, None, :])
    return error
