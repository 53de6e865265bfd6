"""The closed forms of the Gaussian over levels: against float64 sums over all levels, Monte Carlo and differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnround.errors import InputError
from attnround.quantization.grid import Grid
from attnround.quantization.rounding import AttentionRound, gaussian
from attnround.quantization.rounding.gaussian import GaussianTable, exact_moments, gaussian_moments

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
    mean, variance, *_ = exact_moments(centre, sigma, grid)
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
    centre = torch.tensor(values)
    slope_mean, slope_variance = (part.double() for part in exact_moments(centre, sigma, grid)[2:])
    step, at = 1e-5, centre.double()
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


def begin(estimator, u, **settings):
    method = AttentionRound(estimator=estimator, **settings)
    return method.start(u, Grid(3), None, torch.Generator().manual_seed(0))


def test_the_draws_of_sampled_have_the_mean_and_the_gradient_of_expected():
    u = torch.linspace(-5, 5, 21)
    expected, sampled = begin("expected", u), begin("sampled", u)
    expected.anneal(0.2)
    sampled.anneal(0.2)
    mean, variance = expected.moments()
    draws = torch.stack([sampled.moments()[0].detach() for _ in range(4000)])
    assert torch.equal(draws, draws.round())
    torch.testing.assert_close(draws.mean(0), mean.detach(), rtol=0, atol=0.05)
    torch.testing.assert_close(draws.var(0), variance.detach(), rtol=0, atol=0.05)
    mean.sum().backward()
    sampled.moments()[0].sum().backward()
    torch.testing.assert_close(sampled.alpha.grad, expected.alpha.grad)


@pytest.mark.parametrize(
    ("alpha", "step", "share"),
    [
        (0.0, 0.1, 0.5),
        (0.3, 0.1, 0.2743),
        (-0.3, -0.1, 0.2743),
        (0.3, -0.1, 0.7257),
        (-0.3, 0.1, 0.7257),
        (0.3, 0.0, 1),
    ],
)
def test_the_gate_lets_the_mass_ahead_of_a_step_pass(alpha, step, share):
    """Phi(0.3 / 0.5) = 0.7257: most of a step back to the weight, little of one further away."""
    rounding = begin("gated", torch.zeros(1, 1))
    rounding.alpha.data.fill_(alpha)
    rounding.anneal(0.0)
    rounding.alpha.data.add_(step)
    rounding.after_step()
    assert rounding.alpha.item() == pytest.approx(alpha + share * step, abs=1e-5)


def test_gateds_gradient_is_straight_through_inside_the_range_and_none_outside():
    rounding = begin("gated", torch.tensor([[-6.0, -4.4, -4.0, 0.3, 3.0, 3.4, 3.6]]))
    rounding.moments()[0].sum().backward()
    assert rounding.alpha.grad.tolist() == [[0, 1, 1, 1, 1, 1, 0]]


@pytest.mark.parametrize("sigma", [0, -1])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(InputError, match=r"quantizer\.sigma=.*above 0"):
        AttentionRound(sigma=sigma)
    with pytest.raises(InputError, match="above 0"):
        AttentionRound(sigma_end=sigma)


def read(centre: torch.Tensor, sigma: float, grid: Grid) -> list[torch.Tensor]:
    """Mean, variance and slopes as the table has them."""
    table = GaussianTable(sigma, grid, centre)
    level, place = table.locate(centre)
    mean, *others = (table.read(part, place) for part in table.parts)
    return [mean + level, *others]


@given(sigmas, grids, st.sampled_from([torch.float32, torch.float64]))
def test_the_table_is_off_by_what_half_the_way_to_the_next_knot_makes(sigma, grid, dtype):
    """By the largest slope of each function; those of the slopes are at most 0.25 and 0.4 / sigma^2."""
    centre = torch.linspace(grid.qmin - 9, grid.qmax + 9, 20_011, dtype=dtype)
    exact = exact_moments(centre.double(), sigma, grid)
    steepest = [exact[2].max().item(), exact[3].abs().max().item(), 0.25 / sigma**2, 0.4 / sigma**2]
    reach = 2 * math.ceil(4 * sigma) + 1
    # where the window of the knot begins a threshold later than that of c; densities are exp(-8) there
    edges = [4 * TAIL, 8 * TAIL * reach, 4 * 10 * TAIL / sigma, 8 * 10 * TAIL * reach / sigma]
    for found, wanted, slope, edge in zip(read(centre, sigma, grid), exact, steepest, edges, strict=True):
        assert found.dtype == dtype
        assert (found.double() - wanted).abs().max() < slope * 1.01 / 2048 + edge + 3e-5


def test_twice_the_knots_halve_the_errors(monkeypatch):
    centre, errors = torch.linspace(-9, 9, 100_003, dtype=torch.float64), []
    exact = exact_moments(centre, 0.1, Grid(4))
    for knots in (512, 1024, 2048):
        monkeypatch.setattr(gaussian, "KNOTS", knots)
        gaussian._table.cache_clear()
        found = read(centre, 0.1, Grid(4))
        errors.append([(one - other).abs().max().item() for one, other in zip(found, exact, strict=True)])
    gaussian._table.cache_clear()
    for more, fewer in ((0, 1), (1, 2)):
        assert errors[fewer] == pytest.approx([error / 2 for error in errors[more]], rel=0.1)


def test_grids_share_tables():
    """The steps inside a range are alike, so that one table serves 4 to 8 bits."""
    centre = torch.zeros(1)
    assert GaussianTable(0.3, Grid(4), centre).parts is GaussianTable(0.3, Grid(8, symmetric=False), centre).parts


def test_autograd_has_the_slopes_of_the_table():
    centre = torch.linspace(-6, 6, 501, requires_grad=True)
    mean, variance = gaussian_moments(centre, 0.3, Grid(3))
    (slope,) = torch.autograd.grad(2 * mean.sum() + 3 * variance.sum(), centre)
    found = read(centre.detach(), 0.3, Grid(3))
    torch.testing.assert_close([mean, variance, slope], [found[0], found[1], 2 * found[2] + 3 * found[3]])
