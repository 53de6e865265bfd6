"""GPTQ against its textbook form, and coordinate descent against every single change, on small matrices in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnround.quantization.grid import Grid
from attnround.quantization.rounding import coordinate_descent, gptq
from attnround.quantization.rounding.coordinate_descent import descend_coordinates
from attnround.quantization.rounding.gptq import round_greedily


def case(seed, groups=2, rows=3, columns=7):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(groups, columns, columns, generator=generator, dtype=torch.double)
    second = mixing @ mixing.mT / columns + 0.02 * torch.eye(columns)
    return 2 * torch.randn(groups, rows, columns, generator=generator, dtype=torch.double), second


def error(levels, centre, second):
    """Row by row."""
    return (((levels - centre) @ second) * (levels - centre)).sum(2)


def textbook(weight, second, grid, order):
    """One row: quantize a column, spread its error by the inverse, strike the column from the inverse."""
    weight, inverse = weight.clone(), torch.linalg.inv(second)
    levels = torch.zeros_like(weight)
    for j in order:
        levels[j] = weight[j].round().clamp(grid.qmin, grid.qmax)
        weight -= (weight[j] - levels[j]) / inverse[j, j] * inverse[j]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return levels


@given(
    st.integers(0, 10_000), st.integers(2, 4), st.sampled_from([0.0, 0.1]), st.sampled_from(["natural", "activation"])
)
def test_gptq_is_its_textbook_form(seed, bit_width, damping, order):
    centre, second = case(seed)
    levels = round_greedily(centre, second, Grid(bit_width), damping, order)
    for g, matrix in enumerate(second):
        diagonal = matrix.diagonal()
        places = diagonal.argsort(descending=True, stable=True) if order == "activation" else range(len(diagonal))
        damped = matrix + damping * diagonal.mean() * torch.eye(len(diagonal))
        for row, weight in zip(levels[g], centre[g], strict=True):
            assert torch.equal(row, textbook(weight, damped, Grid(bit_width), places))


def test_the_columns_of_equal_moments_keep_their_order():
    centre, second = case(0)
    second = second + torch.diag_embed(5 - second.diagonal(dim1=1, dim2=2))
    assert torch.equal(
        round_greedily(centre, second, Grid(3), order="activation"), round_greedily(centre, second, Grid(3))
    )


@pytest.mark.parametrize("order", ["natural", "activation"])
def test_blocks_of_columns_change_nothing(order, monkeypatch):
    centre, second = case(3, columns=40)
    whole = round_greedily(centre, second, Grid(3), order=order)
    monkeypatch.setattr(gptq, "BLOCK", 16)
    assert torch.equal(round_greedily(centre, second, Grid(3), order=order), whole)
    start = centre.round().clamp(-4, 3)
    monkeypatch.setattr(coordinate_descent, "BLOCK", 16)
    blocks = descend_coordinates(start, centre, second, Grid(3), 50)
    monkeypatch.setattr(coordinate_descent, "BLOCK", 128)
    assert torch.equal(descend_coordinates(start, centre, second, Grid(3), 50), blocks)


@given(st.integers(0, 10_000), st.integers(2, 4))
def test_coordinate_descent_ends_where_no_single_change_helps(seed, bit_width):
    centre, second = case(seed)
    grid = Grid(bit_width)
    start = centre.round().clamp(grid.qmin, grid.qmax)
    end = descend_coordinates(start, centre, second, grid, 100)
    reached = error(end, centre, second)
    assert (reached <= error(start, centre, second)).all()
    for j in range(end.shape[2]):
        for level in range(grid.qmin, grid.qmax + 1):
            changed = end.clone()
            changed[:, :, j] = level
            assert (error(changed, centre, second) > reached - 1e-3).all()


@given(st.integers(0, 1000), st.integers(1, 4))
def test_every_sweep_helps_or_changes_nothing(seed, sweeps):
    centre, second = case(seed, columns=12)
    start = torch.zeros_like(centre)
    few = error(descend_coordinates(start, centre, second, Grid(3), sweeps), centre, second)
    more = error(descend_coordinates(start, centre, second, Grid(3), sweeps + 1), centre, second)
    assert (more <= few).all()


def test_without_correlation_both_round_to_nearest():
    centre, _ = case(0)
    second = torch.diag_embed(torch.rand(2, 7, dtype=torch.double) + 0.1)
    nearest = centre.round().clamp(-4, 3)
    assert torch.equal(round_greedily(centre, second, Grid(3)), nearest)
    assert torch.equal(descend_coordinates(torch.zeros_like(centre), centre, second, Grid(3), 5), nearest)
