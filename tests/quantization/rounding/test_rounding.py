"""What every rounding method keeps, one table for all of them."""

import pytest
import torch

from attnround.quantization.grid import Grid
from attnround.quantization.rounding import AdaRound, AttentionRound, Nearest
from attnround.reconstruction.loop import descend

METHODS = {
    "nearest": Nearest(),
    "adaround": AdaRound(),
    "attention_round": AttentionRound(num_steps=200),
}
LEARNED = [name for name, method in METHODS.items() if method.num_steps]


@pytest.fixture
def problem():
    """A weight in steps, a grid, and the output error of correlated inputs as the objective."""
    generator = torch.Generator().manual_seed(1)
    u = torch.randn(6, 24, generator=generator) * 1.5
    mixing = torch.randn(24, 24, generator=generator)
    second = mixing @ mixing.T / 24 + 0.05 * torch.eye(24)

    def objective(mean, variance=None):
        error = mean - u
        loss = ((error @ second) * error).sum()
        return loss if variance is None else loss + (variance * second.diagonal()).sum()

    return u, Grid(3), objective


def decide(method, problem) -> torch.Tensor:
    u, grid, objective = problem
    torch.manual_seed(0)
    rounding = method.start(u, grid, objective)
    if method.num_steps:
        optimizer = torch.optim.Adam(rounding.parameters(), method.lr)
        descend(rounding, objective, optimizer, range(method.num_steps), method.num_steps)
    return rounding.decide()


@pytest.mark.parametrize("name", METHODS)
def test_the_decision_is_whole_levels_in_range(name, problem):
    levels = decide(METHODS[name], problem)
    grid = problem[1]
    assert torch.equal(levels, levels.round())
    assert levels.min() >= grid.qmin
    assert levels.max() <= grid.qmax


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits(name, problem):
    assert torch.equal(decide(METHODS[name], problem), decide(METHODS[name], problem))


@pytest.mark.parametrize("name", LEARNED)
def test_learning_lowers_the_objective_well_below_nearest(name, problem):
    u, grid, objective = problem
    nearest = objective(u.round().clamp(grid.qmin, grid.qmax))
    assert objective(decide(METHODS[name], problem)) < 0.8 * nearest


@pytest.mark.parametrize("name", LEARNED)
def test_it_starts_at_the_weight_itself(name):
    grid = Grid(3)
    u = torch.linspace(grid.qmin + 1, grid.qmax - 1, 40).reshape(2, 20)
    rounding = METHODS[name].start(u, grid, lambda mean, variance=None: mean.sum() * 0 + 1)
    rounding.anneal(0.0)
    mean, _ = rounding.moments()
    torch.testing.assert_close(mean, u, rtol=0, atol=0.005)  # E[q] - u is at most 0.0023 at sigma = 0.5


@pytest.mark.parametrize("name", LEARNED)
def test_at_the_end_the_mean_is_the_decision(name, problem):
    u, grid, objective = problem
    method = METHODS[name]
    rounding = method.start(u, grid, objective)
    optimizer = torch.optim.Adam(rounding.parameters(), method.lr)
    descend(rounding, objective, optimizer, range(method.num_steps), method.num_steps)
    mean, _ = rounding.moments()
    assert ((mean - rounding.decide()).abs() < 0.1).double().mean() > 0.9


@pytest.mark.parametrize("name", METHODS)
def test_weights_beyond_the_range_are_clipped(name, problem):
    grid = Grid(2)
    u = torch.tensor([[-50.0, 50.0, 0.2]])
    rounding = METHODS[name].start(u, grid, lambda mean, variance=None: (mean - u).square().sum())
    assert rounding.decide()[0, 0] == grid.qmin
    assert rounding.decide()[0, 1] == grid.qmax


def test_adaround_chooses_between_the_two_neighbours(problem):
    u, grid, _ = problem
    levels = decide(METHODS["adaround"], problem)
    below = u.floor().clamp(grid.qmin, grid.qmax)
    above = u.ceil().clamp(grid.qmin, grid.qmax)
    assert ((levels == below) | (levels == above)).all()
