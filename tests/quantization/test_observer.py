import pytest
import torch

from attnround.quantization.grid import Grid, fake_quantize
from attnround.quantization.observer import ClipSearch, sqnr_db


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bit_width", [2, 3, 4, 8])
def test_the_search_beats_the_full_range(symmetric, bit_width, generator):
    weight = torch.randn(5, 3, 3, 3, generator=generator)
    grid = Grid(bit_width, symmetric)

    def error(search: ClipSearch) -> torch.Tensor:
        return (fake_quantize(weight, *search.search(weight, grid), grid) - weight).abs().pow(2.4).flatten(1).sum(1)

    full_range = error(ClipSearch(num_candidates=1, symmetric=symmetric))
    assert (error(ClipSearch(symmetric=symmetric)) <= full_range).all()


def test_eight_bits_clip_next_to_nothing(generator):
    weight = torch.randn(4, 64, generator=generator)
    scale, zero_point = ClipSearch().search(weight, Grid(8))
    assert sqnr_db(weight, fake_quantize(weight, scale, zero_point, Grid(8))) > 35


def test_a_channel_of_zeros_has_scale_one_and_stays_zero():
    weight = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    for symmetric in (True, False):
        scale, zero_point = ClipSearch(symmetric=symmetric).search(weight, Grid(4, symmetric))
        assert scale[0] == 1
        assert (fake_quantize(weight, scale, zero_point, Grid(4, symmetric))[0] == 0).all()


def test_the_scale_follows_the_weight(generator):
    weight = torch.randn(3, 50, generator=generator)
    scale, _ = ClipSearch().search(weight, Grid(4))
    scaled, _ = ClipSearch().search(weight * 4, Grid(4))
    torch.testing.assert_close(scaled, scale * 4)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("exponent", range(-90, 91, 15))
def test_the_scale_follows_the_weight_to_the_bit_however_large(exponent, symmetric, generator):
    weight = torch.randn(8, 50, generator=generator)
    importance = torch.rand(8, 50, generator=generator)
    grid, search = Grid(4, symmetric), ClipSearch(symmetric=symmetric)
    for weights in (None, importance):
        scale, zero_point = search.search(weight, grid, weights)
        scaled, scaled_zero_point = search.search(weight * 2.0**exponent, grid, weights)
        assert torch.equal(scaled, scale * 2.0**exponent)
        assert torch.equal(scaled_zero_point, zero_point)


@pytest.mark.parametrize("value", [1e30, 1e-30])
def test_a_channel_out_of_the_ordinary_changes_no_other(value, generator):
    weight = torch.randn(4, 50, generator=generator) * 0.05
    scale, _ = ClipSearch().search(weight, Grid(4))
    far = weight.clone()
    far[2] *= value
    found, _ = ClipSearch().search(far, Grid(4))
    assert torch.equal(found[[0, 1, 3]], scale[[0, 1, 3]])
    torch.testing.assert_close(found[2] / value, scale[2])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("largest", [1e-42, 1e-30, 1e-12, 1e12, 1e30, 1e38])
def test_one_weight_far_from_the_others_is_kept(largest, symmetric):
    weight = torch.full((1, 9), largest * 1e-3)
    weight[0, 4] = largest
    grid = Grid(4, symmetric)
    scale, zero_point = ClipSearch(symmetric=symmetric).search(weight, grid)
    assert scale > 0
    torch.testing.assert_close(
        fake_quantize(weight, scale, zero_point, grid)[0, 4] / largest, torch.tensor(1.0), atol=0.1, rtol=0
    )


def test_a_channel_too_small_for_a_scale_becomes_zeros():
    weight = torch.full((1, 3), 1e-45)
    scale, zero_point = ClipSearch().search(weight, Grid(8))
    assert (scale, fake_quantize(weight, scale, zero_point, Grid(8)).count_nonzero()) == (1, 0)


def test_importance_buys_precision_where_it_lies(generator):
    weight = torch.randn(1, 100, generator=generator)
    weight[:, :10] *= 10  # outliers stretch the range
    importance = torch.ones_like(weight)
    importance[:, :10] = 0
    grid, search = Grid(3), ClipSearch()

    def error_of_the_rest(scale: torch.Tensor, zero_point: torch.Tensor) -> float:
        return (fake_quantize(weight, scale, zero_point, grid) - weight)[:, 10:].square().sum().item()

    weighted = error_of_the_rest(*search.search(weight, grid, importance))
    assert weighted < 0.5 * error_of_the_rest(*search.search(weight, grid))


def test_sqnr_of_a_tenth_is_twenty_decibel():
    reference = torch.ones(10)
    assert sqnr_db(reference, reference * 0.9) == pytest.approx(20, abs=1e-4)
