"""Coordinate descent on Gaussians: its limits for narrow and wide ones, its fixed points, and what coupling does."""

import pytest
import torch

from attnround.quantization.grid import Grid
from attnround.quantization.rounding import GPTQ, AttentionRound, Rounding
from attnround.quantization.rounding.coordinate_descent import descend_coordinates
from attnround.quantization.rounding.gaussian import GaussianTable
from attnround.quantization.rounding.mean_field import NUM_GROUPS, MeanField
from attnround.reconstruction.layer import descend


class Problem:
    """Two groups of o rows on n correlated inputs; coupled: the rows too, half of it in one direction."""

    unit = 1.0

    def __init__(self, o: int, n: int, coupled: bool = False, common: float = 0.5):
        generator = torch.Generator().manual_seed(2)
        mixing = torch.randn(2, n, 2 * n, generator=generator) + common * torch.randn(2, 1, 2 * n, generator=generator)
        self.second = mixing @ mixing.mT / n
        self.centre = 2 * torch.randn(2, o, n, generator=generator)
        self.gain = torch.rand(2, o, 1, generator=generator) + 0.1
        self.coupling = None
        if coupled:
            rows = torch.randn(2, o, 2 * o, generator=generator) + torch.randn(2, 1, 2 * o, generator=generator)
            self.coupling = rows @ rows.mT / o
            self.gain = self.coupling.diagonal(dim1=1, dim2=2)[:, :, None]

    def __call__(self, mean: torch.Tensor, variance: torch.Tensor | None = None) -> torch.Tensor:
        error = mean.view_as(self.centre) - self.centre
        loss = (self.slope(error) * error).sum()
        if variance is None:
            return loss
        diagonal = self.second.diagonal(dim1=1, dim2=2)[:, None]
        return loss + (variance.view_as(self.centre) * self.gain * diagonal).sum()

    def slope(self, error: torch.Tensor) -> torch.Tensor:
        coupling = torch.diag_embed(self.gain[:, :, 0]) if self.coupling is None else self.coupling
        return coupling @ error @ self.second


def swept(problem: Problem, grid: Grid, sigma: float, num_sweeps: int) -> torch.Tensor:
    """The centres of Gaussians of one width after sweeps from the best real-valued levels."""
    field, centre = MeanField(problem), problem.centre.clone()
    for _ in range(num_sweeps):
        field.sweep(centre, GaussianTable(sigma, grid, centre))
    return centre


def test_the_narrowest_gaussians_descend_by_coordinates():
    """With a group for every column; the order of the columns is that of coordinate descent."""
    problem, grid = Problem(5, NUM_GROUPS), Grid(3)
    levels = problem.centre.round().clamp(grid.qmin, grid.qmax)
    wanted = descend_coordinates(levels, problem.centre, problem.second, grid, max_sweeps=1)
    assert not torch.equal(wanted, levels)
    assert torch.equal(swept(problem, grid, 1e-3, 1).round().clamp(grid.qmin, grid.qmax), wanted)


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize(("o", "n"), [(8, 7), (8, 150), (11, 37), (11, 1), (1, 9), (13, 2)])
def test_wide_gaussians_have_the_best_real_valued_means(o, n, coupled):
    """From elsewhere; in groups of columns that are not independent, of rows that are not either; of any number."""
    problem, grid = Problem(o, n, coupled), Grid(8)
    field, centre = MeanField(problem), torch.zeros_like(problem.centre)
    before = problem(centre)
    for _ in range(100):
        table = GaussianTable(0.7, grid, centre)
        field.sweep(centre, table)
    assert problem(table.mean(centre)) < 1e-3 * before


def test_weights_that_move_at_once_do_not_overshoot():
    """Where columns and rows have nearly all in common, and together would go too far."""
    problem, grid = Problem(64, 96, coupled=True, common=4), Grid(8)
    field, centre = MeanField(problem), torch.zeros_like(problem.centre)
    assert field.rate.max() < 0.2
    table, losses = GaussianTable(0.5, grid, centre), []
    for _ in range(30):
        field.sweep(centre, table)
        losses.append(problem(table.mean(centre)).item())
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("coupled", [False, True])
def test_a_fixed_point_is_the_best_point_given_the_others(coupled):
    """Also where it is beyond the range, and nothing gets stuck; the value of a sweep is then the objective."""
    problem, grid = Problem(6, 24, coupled), Grid(2)
    centre = swept(problem, grid, 0.4, 150)
    assert (centre.abs() > 4).any()
    table = GaussianTable(0.4, grid, centre)
    mean = table.mean(centre)
    diagonal = problem.second.diagonal(dim1=1, dim2=2)[:, None]
    wanted = mean - problem.slope(mean - problem.centre) / (problem.gain * diagonal)
    torch.testing.assert_close(centre, wanted, rtol=0.01, atol=0.02)
    loss = MeanField(problem).sweep(centre.clone(), table)
    torch.testing.assert_close(loss, problem(mean, table.variance(centre)), rtol=1e-3, atol=0)


def ill_conditioned(coupled: bool) -> Problem:
    """Inputs of which a few directions hold nearly all of the variance."""
    problem, num_columns = Problem(24, 120, coupled), 120
    directions = torch.linalg.qr(problem.second)[0] * torch.arange(1, num_columns + 1) ** -1.0
    second = directions @ directions.mT
    problem.second = second + 0.01 * second.diagonal(dim1=1, dim2=2).mean() * torch.eye(num_columns)
    return problem


@pytest.mark.parametrize("coupled", [False, True])
def test_from_gptqs_levels_sweeps_end_where_gptq_does_where_few_directions_count(coupled):
    """From the weights they end above: what only many weights together can cancel they hardly move."""
    problem, grid = ill_conditioned(coupled), Grid(4)
    u = problem.centre.flatten(0, 1)
    greedy = problem(GPTQ().start(u, grid, problem, None).decide()).item()
    errors = {init: problem(decided(problem, u, grid, init)).item() for init in ("weight", "gptq", "best")}
    assert errors["gptq"] < 1.02 * greedy < 0.75 * errors["weight"]
    assert errors["best"] == min(errors["gptq"], greedy)


@pytest.mark.parametrize("coupled", [False, True])
def test_the_best_start_is_at_the_weights_where_gptq_ends_above(coupled):
    problem, grid = Problem(24, 120, coupled), Grid(2)
    u = problem.centre.flatten(0, 1)
    from_weights = decided(problem, u, grid, "weight")
    assert problem(GPTQ().start(u, grid, problem, None).decide()) > problem(from_weights)
    assert torch.equal(decided(problem, u, grid, "best"), from_weights)


def decided(problem: Problem, u: torch.Tensor, grid: Grid, init: str) -> torch.Tensor:
    """The levels that Attention Round decides for, from this start, and when asked once more."""
    method = AttentionRound(init=init)
    rounding = method.start(u, grid, problem, None)
    descend(rounding, problem, None, range(method.num_steps), method.num_steps)
    levels = rounding.decide()
    assert torch.equal(levels, rounding.decide())
    return levels


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("common", [0.5, 1.5])
def test_a_hundred_sweeps_end_below_four_hundred_steps_of_adam(coupled, common):
    """Also where all inputs have two thirds of their variance in common, and a group may not move all the way."""
    problem, grid, errors = Problem(24, 120, coupled, common), Grid(3), []
    for num_steps in (100, 400):
        method = AttentionRound(num_steps=num_steps, init="weight")
        rounding = method.start(problem.centre.flatten(0, 1), grid, problem, None)
        optimizer = torch.optim.Adam(rounding.parameters(), method.lr)
        if num_steps == 100:
            descend(rounding, problem, optimizer, range(num_steps), num_steps)
        else:
            for step in range(num_steps):
                rounding.anneal(step / num_steps)
                Rounding.step(rounding, problem, optimizer)
        errors.append(problem(rounding.decide()).item())
    assert errors[0] < errors[1]
