"""GPTQ where the rows of a weight are coupled, on small matrices in float64."""

import pytest
import torch

from attnround.quantization.grid import Grid
from attnround.quantization.rounding import gptq
from attnround.quantization.rounding.gptq import round_greedily

ORDERS = ["natural", "activation"]
SHAPES = [(1, 1, 1), (1, 1, 9), (1, 9, 1), (2, 8, 12), (2, 7, 13), (1, 13, 3), (3, 3, 10)]


def positive(groups, size, generator):
    mixing = torch.randn(groups, size, size, generator=generator, dtype=torch.double)
    matrix = mixing @ mixing.mT
    return 0.9 * matrix / matrix.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 0.1 * torch.eye(size)


def case(seed, groups=2, rows=5, columns=7):
    """Centre, second moment and coupling."""
    generator = torch.Generator().manual_seed(seed)
    centre = 2 * torch.randn(groups, rows, columns, generator=generator, dtype=torch.double)
    return centre, positive(groups, columns, generator), positive(groups, rows, generator)


def error(levels, centre, second, coupling):
    """Group by group."""
    return (coupling @ (levels - centre) @ second * (levels - centre)).sum((1, 2))


def order_of(matrix, order):
    diagonal = matrix.diagonal()
    return diagonal.argsort(descending=True, stable=True) if order == "activation" else torch.arange(len(diagonal))


def one_by_one(centre, second, coupling, grid, order):
    """The levels of one group: each is the best for all of its terms before, as two loops over the weights."""
    down, across = order_of(coupling, order), order_of(second, order)
    rows = torch.linalg.cholesky(coupling[down][:, down].flip(0, 1)).flip(0, 1).T
    columns = torch.linalg.cholesky(second[across][:, across].flip(0, 1)).flip(0, 1)
    rows, columns = rows / rows.diagonal()[:, None], columns / columns.diagonal()
    error = torch.zeros_like(centre)
    for i, row in enumerate(down):
        for j, column in enumerate(across):
            others = (rows @ error @ columns)[i, j]  # of the term that this level is the last to enter
            level = (centre[row, column] - others).round().clamp(grid.qmin, grid.qmax)
            error[i, j] = level - centre[row, column]
    levels = torch.empty_like(centre)
    levels[down[:, None], across] = centre[down[:, None], across] + error
    return levels.round()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tile", [1, 4, 32])
def test_gptq_in_tiles_is_gptq_one_by_one(shape, order, tile, monkeypatch):
    monkeypatch.setattr(gptq, "TILE", tile)
    for seed in range(5):
        centre, second, coupling = case(seed, *shape)
        levels = round_greedily(centre, second, Grid(3), order=order, coupling=coupling)
        for g in range(shape[0]):
            assert torch.equal(levels[g], one_by_one(centre[g], second[g], coupling[g], Grid(3), order))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 40, 70)], ids=str)
def test_rows_that_a_diagonal_does_not_couple_round_as_independent_ones(shape, weighed, order):
    centre, second, coupling = case(0, *shape)
    diagonal = torch.diag_embed(coupling.diagonal(dim1=1, dim2=2) if weighed else torch.ones(shape[:2]).double())
    plain = round_greedily(centre, second, Grid(3), 0.1, order)
    assert torch.equal(round_greedily(centre, second, Grid(3), 0.1, order, diagonal), plain)


@pytest.mark.parametrize("order", ORDERS)
def test_gptq_that_knows_the_coupling_has_the_smaller_error(order):
    ratios = []
    for seed in range(20):
        centre, second, coupling = case(seed, rows=24, columns=30)
        plain, coupled = (round_greedily(centre, second, Grid(4), 0.0, order, known) for known in (None, coupling))
        ratios.append(error(coupled, centre, second, coupling) / error(plain, centre, second, coupling))
    assert torch.cat(ratios).mean() < 0.8
