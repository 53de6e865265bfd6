import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnround.errors import InputError
from attnround.quantization.grid import Grid, dequantize, fake_quantize, quantize, steps

bit_widths = st.integers(2, 8)


@pytest.mark.parametrize("bit_width", [0, 1, 9, 2.5])
def test_bit_widths_outside_two_to_eight_are_refused(bit_width):
    with pytest.raises(InputError, match="2 to 8"):
        Grid(bit_width)


@given(bit_widths, st.booleans())
def test_a_grid_has_two_to_the_bits_levels_that_fit_its_type(bit_width, symmetric):
    grid = Grid(bit_width, symmetric)
    info = torch.iinfo(grid.dtype)
    assert grid.qmax - grid.qmin + 1 == 2**bit_width
    assert info.min <= grid.qmin < grid.qmax <= info.max


@given(bit_widths, st.booleans(), st.integers(0, 2**32 - 1))
def test_fake_quantize_is_the_nearest_point_of_the_grid(bit_width, symmetric, seed):
    grid = Grid(bit_width, symmetric)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 4, generator=generator)
    scale = torch.rand(3, generator=generator) * 0.5 + 0.01
    zero_point = torch.zeros(3) if symmetric else torch.randint(0, grid.qmax, (3,), generator=generator).float()
    levels = torch.arange(grid.qmin, grid.qmax + 1).float()
    points = (levels - zero_point[:, None]) * scale[:, None]
    nearest = (weight[:, :, None] - points[:, None, :]).abs().amin(2)
    error = (fake_quantize(weight, scale, zero_point, grid) - weight).abs()
    torch.testing.assert_close(error, nearest, rtol=0, atol=1e-5)


@given(bit_widths, st.booleans(), st.integers(0, 2**32 - 1))
def test_agrees_with_torch_fake_quantize(bit_width, symmetric, seed):
    grid = Grid(bit_width, symmetric)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 3, 2, 2, generator=generator)
    scale = 2.0 ** torch.randint(-6, 0, (4,), generator=generator)  # powers of two: no rounding of w / s to differ in
    zero_point = torch.zeros(4) if symmetric else torch.randint(0, grid.qmax + 1, (4,), generator=generator).float()
    theirs = torch.fake_quantize_per_channel_affine(weight, scale, zero_point.int(), 0, grid.qmin, grid.qmax)
    assert torch.equal(fake_quantize(weight, scale, zero_point, grid), theirs)


def test_levels_survive_the_round_trip():
    grid = Grid(3)
    levels = torch.arange(grid.qmin, grid.qmax + 1).float().repeat(2, 1)
    scale, zero_point = torch.tensor([0.1, 3.7]), torch.zeros(2)
    weight = dequantize(levels, scale, zero_point)
    assert torch.equal(quantize(weight, scale, zero_point, grid), levels)
    torch.testing.assert_close(steps(weight, scale, zero_point), levels)
