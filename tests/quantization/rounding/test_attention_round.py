"""The closed forms of the Gaussian over levels: against float64 sums over all levels, Monte Carlo and differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnround.errors import InputError
from attnround.quantization.grid import Grid
from attnround.quantization.rounding import AttentionRound, gaussian
from attnround.quantization.rounding.gaussian import gaussian_moments

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


@pytest.mark.parametrize("sigma", [0.5, 0.05])
def test_the_fused_pass_gives_what_the_plain_one_gives(sigma, generator):
    """Where no compiler is, the fused pass is the plain one, and this holds all the same."""
    centre = (torch.randn(40, 7, 3, 3, generator=generator) * 4).requires_grad_()
    results = []
    for fused in (False, True):
        mean, variance = gaussian_moments(centre, sigma, Grid(3), fused)
        (slope,) = torch.autograd.grad(mean.sum() + 3 * variance.sum(), centre)
        results.append((mean.detach(), variance.detach(), slope))
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(plain, fused, rtol=1e-5, atol=1e-4)


def test_without_a_compiler_it_runs_unfused_and_says_so(monkeypatch, caplog):
    def no_compiler(*_, **__):
        raise RuntimeError("no C++ compiler")

    caplog.set_level("INFO")
    gaussian._fused_window_sums.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda *_, **__: no_compiler)
    try:
        centre = torch.linspace(-3, 3, 9)
        assert torch.equal(gaussian_moments(centre, 0.5, Grid(4), True)[0], gaussian_moments(centre, 0.5, Grid(4))[0])
    finally:
        gaussian._fused_window_sums.cache_clear()
    assert "no compiler" in caplog.text
