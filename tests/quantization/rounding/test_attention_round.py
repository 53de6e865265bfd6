"""The closed forms of the Gaussian over levels: against float64 sums over all levels, Monte Carlo and differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnround.errors import InputError
from attnround.quantization.grid import Grid
from attnround.quantization.rounding import AttentionRound
from attnround.quantization.rounding.attention_round import gaussian_moments

grids = st.builds(Grid, st.integers(2, 8), st.booleans())
sigmas = st.floats(0.03, 1.5)
centres = st.lists(st.floats(-300, 300), min_size=1, max_size=20)
TAIL = 3.2e-5  # Phi(-4): what the window leaves out of each threshold's sum


def all_levels(centre: torch.Tensor, sigma: float, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance from the probability of every level, in float64."""
    levels = torch.arange(grid.qmin, grid.qmax + 1, dtype=torch.double)
    upper = torch.special.ndtr((levels + 0.5 - centre.double()[:, None]) / sigma)
    upper[:, -1] = 1
    probability = torch.diff(upper, prepend=torch.zeros(len(centre), 1, dtype=torch.double))
    mean = (probability * levels).sum(1)
    return mean, (probability * (levels - mean[:, None]).square()).sum(1)


@given(centres, sigmas, grids)
def test_moments_are_those_of_the_sum_over_all_levels(values, sigma, grid):
    centre = torch.tensor(values)
    mean, variance = gaussian_moments(centre, sigma, grid)
    expected_mean, expected_variance = all_levels(centre, sigma, grid)
    reach = 2 * math.ceil(4 * sigma) + 1
    torch.testing.assert_close(mean.double(), expected_mean, rtol=0, atol=4 * TAIL + 1e-5)
    torch.testing.assert_close(variance.double(), expected_variance, rtol=0, atol=8 * TAIL * reach + 1e-5)


def test_moments_are_those_of_the_draws(generator):
    centre, sigma, grid = torch.linspace(-5, 5, 21), 0.5, Grid(3)
    noise = torch.randn(200_000, 21, generator=generator)
    draws = (centre + sigma * noise).round().clamp(grid.qmin, grid.qmax)
    mean, variance = gaussian_moments(centre, sigma, grid)
    torch.testing.assert_close(mean, draws.mean(0), rtol=0, atol=0.01)
    torch.testing.assert_close(variance, draws.var(0), rtol=0, atol=0.01)


@given(centres, st.floats(0.05, 1.0), grids)
def test_slopes_are_those_of_finite_differences(values, sigma, grid):
    centre = torch.tensor(values, requires_grad=True)
    mean, variance = gaussian_moments(centre, sigma, grid)
    slope_mean = torch.autograd.grad(mean.sum(), centre, retain_graph=True)[0].double()
    slope_variance = torch.autograd.grad(variance.sum(), centre)[0].double()
    step, at = 1e-5, centre.detach().double()
    above, below = all_levels(at + step, sigma, grid), all_levels(at - step, sigma, grid)
    # a window's edge at 4 sigma drops densities of exp(-8) / (sigma sqrt(2 pi)), times up to 2 * reach + 1
    dropped = math.exp(-8) / (sigma * math.sqrt(2 * math.pi))
    reach = 2 * math.ceil(4 * sigma) + 1
    torch.testing.assert_close(slope_mean, (above[0] - below[0]) / (2 * step), rtol=0, atol=4 * dropped + 1e-4)
    torch.testing.assert_close(
        slope_variance, (above[1] - below[1]) / (2 * step), rtol=0, atol=8 * reach * dropped + 1e-4
    )


@pytest.mark.parametrize(("sigma", "off"), [(0.5, 0.015), (0.25, 0.60)])
def test_the_straight_through_gradient_is_as_exact_as_the_series_says(sigma, off):
    """dE[q]/dc = 1 + 2 sum_m (-1)^m exp(-2 pi^2 m^2 sigma^2) cos(2 pi m c) inside the range."""
    centre = torch.linspace(-1, 1, 201, requires_grad=True)
    (slope,) = torch.autograd.grad(gaussian_moments(centre, sigma, Grid(8))[0].sum(), centre)
    series = 1 + 2 * sum(
        (-1) ** m * math.exp(-2 * (math.pi * m * sigma) ** 2) * torch.cos(2 * math.pi * m * centre.detach())
        for m in range(1, 6)
    )
    torch.testing.assert_close(slope, series, rtol=0, atol=2e-3)
    assert (slope - 1).abs().max().item() == pytest.approx(off, abs=0.02 if sigma < 0.5 else 0.002)


def test_a_narrow_gaussian_is_its_decision():
    grid = Grid(4)
    u = torch.tensor([-9.3, -8.0, -0.2, 0.7, 3.4, 11.0])
    mean, variance = gaussian_moments(u, 0.01, grid)
    assert torch.equal(mean, torch.tensor([-8.0, -8.0, 0.0, 1.0, 3.0, 7.0]))
    assert variance.max() < 1e-6


@pytest.mark.parametrize("sigma", [0, -1])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(InputError, match=r"quantizer\.sigma=.*above 0"):
        AttentionRound(sigma=sigma)
    with pytest.raises(InputError, match="above 0"):
        AttentionRound(sigma_end=sigma)
