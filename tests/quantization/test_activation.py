import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from attnround.quantization.activation import ActivationQuantizer

quantizers = st.builds(
    lambda bits, part, scale: ActivationQuantizer(scale, round(part * (2**bits - 1)), bits),
    st.integers(2, 8),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.floats(1e-4, 1e3),
)


@given(quantizers, st.integers(0, 100), st.floats(0.1, 300))
def test_codes_are_the_forward_pass(quantizer, seed, num_steps):
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed)) * quantizer.scale.item() * num_steps
    codes = quantizer.codes(x)
    assert codes.dtype == torch.uint8
    assert codes.max() <= 2**quantizer.bit_width - 1
    assert torch.equal(quantizer.decode(codes), quantizer(x))
    assert torch.equal(quantizer.codes(quantizer(x)), codes)


@given(quantizers)
def test_zero_is_met_exactly_and_the_error_is_half_a_step(quantizer):
    low, high = (level * quantizer.scale.item() for level in quantizer.levels)
    x = torch.linspace(low, high, 1001).clamp(low, high)
    assert (quantizer(x) - x).abs().max() <= quantizer.scale * 0.501
    assert quantizer(torch.zeros(3)).abs().max() == 0
    assert quantizer(torch.tensor([low * 2 - 1, high * 2 + 1])).tolist() == pytest.approx([low, high])
    assert quantizer.signed == (low < 0)


def through_round(x: torch.Tensor, scale: torch.Tensor, levels: tuple[int, int]) -> torch.Tensor:
    """LSQ as its paper's appendix writes it: the rounding's gradient is that of the identity."""
    u = (x / scale).clamp(*levels)
    return (u + (u.round() - u).detach()) * scale


@pytest.mark.parametrize("zero_point", [0, 5, 15])
@pytest.mark.parametrize("scale_gradient", [True, False])
def test_gradients_are_those_of_rounding_straight_through(zero_point, scale_gradient, generator):
    quantizer = ActivationQuantizer(0.3, zero_point, 4, learned=True, scale_gradient=scale_gradient)
    x = (torch.randn(6, 5, 4, 4, generator=generator) * 3).requires_grad_()
    grad = torch.randn(x.shape, generator=generator)
    got = torch.autograd.grad(quantizer(x), [x, quantizer.scale], grad)
    double, scale = x.detach().double().requires_grad_(), quantizer.scale.detach().double().requires_grad_()
    expected = torch.autograd.grad(through_round(double, scale, quantizer.levels), [double, scale], grad.double())
    factor = 1 / math.sqrt(5 * 4 * 4 * 15) if scale_gradient else 1
    torch.testing.assert_close(got[0], expected[0].float())
    torch.testing.assert_close(got[1], (expected[1] * factor).float(), rtol=1e-4, atol=1e-5)


def test_the_scales_gradient_is_the_slope_of_the_dithered_quantizer():
    """LSQ's gradient is no derivative of the staircase, but of its mean under a dither of +-1/2 step.

    mean_t scale * clip(round(x / scale + t)) is smooth in the scale; its central difference must be the mean over t of
    the gradients at x + t * scale, for x further than the dither from the ends (nearer, LSQ counts as clipped what the
    dither alone took out).
    """
    scale, step, num_draws = 0.4, 1e-6, 2000
    quantizer = ActivationQuantizer(scale, 3, 4, learned=True, scale_gradient=False)
    lowest, highest = quantizer.levels

    def smooth(s: float, x: float) -> float:
        return s * (integral(x / s + 0.5) - integral(x / s - 0.5))

    def integral(u: float) -> float:
        """Of clip(round(.)), exactly."""
        n = min(max(round(u), lowest), highest)
        return u * n - n * n / 2

    dither = (torch.arange(num_draws, dtype=torch.float64) + 0.5) / num_draws - 0.5
    for level in (-7.2, -3.6, -2.3, -0.5, 0, 0.7, 4.25, 11.4, 12.6, 20):
        x = level * scale
        slope = (smooth(scale + step, x) - smooth(scale - step, x)) / (2 * step)
        (gradient,) = torch.autograd.grad(quantizer((x + dither * scale).float()).mean(), quantizer.scale)
        assert gradient.item() == pytest.approx(slope, abs=2e-3), level


def test_learning_finds_the_scale_of_least_error(generator):
    x = torch.randn(64, 100, generator=generator)
    quantizer = ActivationQuantizer(1.0, 8, 4, learned=True)
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.01)
    for _ in range(300):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
    errors = {s: (ActivationQuantizer(s, 8, 4)(x) - x).square().mean() for s in torch.linspace(0.1, 1, 91).tolist()}
    assert quantizer.scale.item() == pytest.approx(min(errors, key=errors.get), rel=0.1)


def test_a_scale_that_is_not_learned_has_no_gradient():
    quantizer = ActivationQuantizer(0.5, 0, 8)
    x = torch.tensor([-1.0, 1.0, 200.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 0]
    assert quantizer.scale.grad is None


def test_dropping_leaves_its_share_of_the_values_float(generator):
    quantizer = ActivationQuantizer(0.5, 8, 4, drop=0.25)
    x = torch.randn(200, 500, generator=generator).requires_grad_()
    whole = quantizer(x).detach()
    assert torch.equal(whole, ActivationQuantizer(0.5, 8, 4)(x))  # not while it is not asked for
    quantizer.dropping = True
    torch.manual_seed(0)
    mixed = quantizer(x)
    float_there = mixed == x
    assert torch.equal(torch.where(float_there, x, whole), mixed)
    assert float_there.double().mean().item() == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / x.numel()))
    rows = float_there.double().mean(1)
    assert rows.std().item() == pytest.approx(math.sqrt(0.25 * 0.75 / 500), rel=0.2)  # value by value
    mixed.sum().backward()
    inside = (x > -4) & (x < 3.5)
    assert torch.equal(x.grad, (inside | float_there).float())
    torch.manual_seed(0)
    assert torch.equal(quantizer(x), mixed)
    assert not torch.equal(quantizer(x), mixed)


def test_the_state_carries_scale_and_zero_point():
    source, other = ActivationQuantizer(0.25, 3, 4), nn.ModuleList([ActivationQuantizer(1.0, 0, 4)])
    state = nn.ModuleList([source]).state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other.load_state_dict(state)
    x = torch.linspace(-2, 4, 50)
    assert torch.equal(other[0](x), source(x))
    assert other[0].zero_point == 3


def test_lower_precision_is_quantized_in_float32():
    quantizer, x = ActivationQuantizer(0.1, 128, 8), torch.linspace(-12, 12, 999).bfloat16()
    assert quantizer(x).dtype == torch.bfloat16
    assert torch.equal(quantizer(x), quantizer(x.float()).bfloat16())
