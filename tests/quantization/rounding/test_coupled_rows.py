"""GPTQ and coordinate descent where the rows of a weight are coupled, on small matrices in float64."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnround.quantization.grid import Grid
from attnround.quantization.rounding import GPTQ, AttentionRound, CoordinateDescent, coordinate_descent, gptq
from attnround.quantization.rounding.coordinate_descent import descend_coordinates
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


@pytest.mark.parametrize("least", [0.0, 1e-22, 1e-25])
def test_a_row_of_next_to_no_scale_is_coupled_to_no_other(least):
    """A dead filter: float32 does not hold the square of its scale."""
    centre, second, coupling = case(0)
    scale = torch.tensor([1, least, 1, 1, 1], dtype=torch.double)
    levels = round_greedily(centre, second, Grid(3), coupling=(scale[:, None] * coupling * scale).float())
    others = [0, 2, 3, 4]
    alone = round_greedily(centre[:, others], second, Grid(3), coupling=coupling[:, others][:, :, others].float())
    assert torch.equal(levels[:, others], alone)
    assert torch.equal(levels[:, [1]], round_greedily(centre[:, [1]], second, Grid(3)))


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


@given(st.integers(0, 10_000), st.integers(2, 4))
def test_coordinate_descent_ends_where_no_single_change_helps(seed, bit_width):
    centre, second, coupling = case(seed, rows=4, columns=5)
    grid = Grid(bit_width)
    start = centre.round().clamp(grid.qmin, grid.qmax)
    end = descend_coordinates(start, centre, second, grid, 1000, coupling)
    reached = error(end, centre, second, coupling)
    assert (reached <= error(start, centre, second, coupling)).all()
    curvature = coupling.diagonal(dim1=1, dim2=2)[:, :, None] * second.diagonal(dim1=1, dim2=2)[:, None, :]
    margin = 1.01 * coordinate_descent.MARGIN * curvature  # what the nearer of two neighbours may still be worth
    for i in range(end.shape[1]):
        for j in range(end.shape[2]):
            for level in range(grid.qmin, grid.qmax + 1):
                changed = end.clone()
                changed[:, i, j] = level
                assert (error(changed, centre, second, coupling) > reached - margin[:, i, j]).all()


@given(st.integers(0, 1000))
def test_no_sweep_raises_the_error(seed):
    centre, second, coupling = case(seed, rows=20, columns=6)
    levels = torch.zeros_like(centre)
    before = error(levels, centre, second, coupling)
    for _ in range(10):
        levels = descend_coordinates(levels, centre, second, Grid(3), 1, coupling)
        after = error(levels, centre, second, coupling)
        assert (after <= before).all()
        before = after


def test_moves_that_would_undo_each_other_are_not_all_made():
    """Two rows that count by their sum alone, nearly: where both moved, the error would stay as it is."""
    coupling = torch.tensor([[[1.0, 0.99], [0.99, 1.0]]])
    centre, second, levels = torch.tensor([[[0.5], [0.5]]]), torch.ones(1, 1, 1), torch.zeros(1, 2, 1)
    end = descend_coordinates(levels, centre, second, Grid(3), 1, coupling)
    assert sorted(end.flatten().tolist()) == [0, 1]


@pytest.mark.parametrize("shape", [(2, 5, 7), (1, 3, 40)], ids=str)
def test_rows_that_a_diagonal_does_not_couple_descend_as_independent_ones(shape):
    centre, second, coupling = case(0, *shape)
    diagonal = torch.diag_embed(coupling.diagonal(dim1=1, dim2=2))
    start = centre.round().clamp(-4, 3)
    independent = descend_coordinates(start, centre, second, Grid(3), 100)
    assert torch.equal(descend_coordinates(start, centre, second, Grid(3), 100, diagonal), independent)


def test_blocks_of_columns_change_nothing(monkeypatch):
    centre, second, coupling = case(3, columns=40)
    start = centre.round().clamp(-4, 3)
    whole = descend_coordinates(start, centre, second, Grid(3), 50, coupling)
    monkeypatch.setattr(coordinate_descent, "BLOCK", 16)
    assert torch.equal(descend_coordinates(start, centre, second, Grid(3), 50, coupling), whole)


class Coupled(SimpleNamespace):
    """The objective of two groups of five rows, as `Quadratic` has it."""

    unit = 1.0

    def __init__(self, seed):
        self.centre, self.second, self.coupling = case(seed)
        self.gain = self.coupling.diagonal(dim1=1, dim2=2)[:, :, None]

    def __call__(self, mean, variance=None):
        coupling = torch.eye(self.centre.shape[1]).to(self.centre) if self.coupling is None else self.coupling
        return error(mean.reshape(self.centre.shape), self.centre, self.second, coupling).sum()


def decided(method, objective):
    u = objective.centre.flatten(0, 1)
    return method.start(u, Grid(3), objective, torch.Generator()).decide()


@pytest.mark.parametrize(
    "method",
    [GPTQ(), CoordinateDescent(), CoordinateDescent(init="gptq"), AttentionRound(polish=True)],
    ids=["gptq", "coordinate_descent", "coordinate_descent_from_gptq", "attention_round_polished"],
)
def test_every_method_with_a_closed_form_is_told_of_the_coupling(method):
    gains = []
    for seed in range(20):
        objective, independent = Coupled(seed), Coupled(seed)
        independent.coupling = None
        gains.append(objective(decided(method, objective)) / objective(decided(method, independent)))
    assert torch.stack(gains).mean() < 0.9
