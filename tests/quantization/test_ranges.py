import pytest
import torch
from torch.nn.functional import hardswish, silu

from attnround.errors import InputError
from attnround.quantization.grid import Grid
from attnround.quantization.histogram import Histogram
from attnround.quantization.ranges import Lsq, MinMax, Mse, Percentile, squared_error

METHODS = [MinMax(), Percentile(), Mse(), Lsq()]
NOISE = torch.randn(40_000, generator=torch.Generator().manual_seed(0))
SIGNALS = {
    "gauss": NOISE,
    "relu": NOISE.relu(),
    "relu6": (NOISE * 4).clamp(0, 6),
    "silu": silu(NOISE * 2),
    "hard-swish": hardswish(NOISE * 2),
    "far from zero": NOISE * 0.1 + 5,
    "negative": -NOISE.abs(),
    "heavy tail": NOISE.sign() * NOISE.abs() ** 3,
}


def histogram_of(values: torch.Tensor) -> Histogram:
    histogram = Histogram()
    histogram.update(values)
    return histogram


def error(values: torch.Tensor, scale: float, zero_point: int, grid: Grid) -> float:
    levels = (values.double() / scale).round().clamp(-zero_point, grid.qmax - zero_point)
    return (levels * scale - values).square().sum().item()


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("kind", [MinMax, Percentile, Mse])
def test_tensorrts_ranges_are_the_same_on_both_sides_of_zero(kind, name):
    x, method = SIGNALS[name], kind(placement="tensorrt")
    for bit_width in (4, 8):
        quantizer = method.quantizer(histogram_of(x), bit_width)
        assert quantizer.levels == (-(2 ** (bit_width - 1)), 2 ** (bit_width - 1) - 1)
        grid, whole = quantizer.grid, x.abs().max().item() / quantizer.levels[1]
        assert quantizer.scale.item() <= whole * (1 + 1e-6)
        if kind is MinMax:
            assert quantizer.scale.item() == pytest.approx(whole)
        elif kind is Mse:
            found = error(x, quantizer.scale.item(), quantizer.zero_point, grid)
            tried = [error(x, whole * 2 ** (-i / 24), quantizer.zero_point, grid) for i in range(144)]
            assert found <= 1.02 * min(tried)


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_signed_as_the_data_asks_and_zero_exact(method, name):
    x = SIGNALS[name]
    for bit_width in (4, 8):
        quantizer = method.quantizer(histogram_of(x), bit_width)
        assert quantizer.bit_width == bit_width
        assert quantizer.signed == bool(x.min() < -quantizer.scale / 2)  # a shorter tail rounds to zero anyway
        assert quantizer(torch.zeros(1)).item() == 0
        assert quantizer.learned == isinstance(method, Lsq)


@pytest.mark.parametrize("bit_width", [2, 4, 8])
@pytest.mark.parametrize("name", SIGNALS)
def test_mse_is_the_best_of_all_ranges(name, bit_width):
    """Against every zero point and 32 scales an octave, measured on the values themselves."""
    x, grid = SIGNALS[name], Grid(bit_width, symmetric=False)
    histogram = histogram_of(x)
    quantizer = Mse().quantizer(histogram, bit_width)
    scales = MinMax().search(histogram, grid)[0] * 2 ** (-torch.arange(192, dtype=torch.float64) / 32)
    best = (float("inf"), 1.0, 0)
    for zero_point in range(0, grid.qmax + 1, 5 if bit_width == 8 else 1):
        errors = squared_error(histogram, scales, torch.full_like(scales, zero_point), grid)
        best = min(best, (errors.min().item(), scales[errors.argmin()].item(), zero_point))
    found = error(x, quantizer.scale.item(), quantizer.zero_point, grid)
    assert found <= 1.03 * error(x, *best[1:], grid)
    for other in (MinMax(), Percentile()):
        assert found <= 1.01 * error(x, *other.search(histogram, grid), grid)


@pytest.mark.parametrize("name", SIGNALS)
def test_the_error_is_that_of_the_values(name):
    x, grid = SIGNALS[name], Grid(4, symmetric=False)
    for scale, zero_point in ((0.3, 7), (0.1, 2), (1.0, 0), (0.05, 15)):
        expected = error(x, scale, zero_point, grid)
        got = squared_error(histogram_of(x), torch.tensor([scale]), torch.tensor([zero_point]), grid).item()
        assert got == pytest.approx(expected, rel=0.02)


def test_exact_zeros_cost_nothing():
    """Half of what a ReLU puts out is zero, which every grid meets: it must not count as spread over a bin."""
    histogram = histogram_of(torch.tensor([0.0] * 1000 + [100.0]))
    grid = Grid(8, symmetric=False)
    (near_zero,) = squared_error(histogram, torch.tensor([100 / 255]), torch.tensor([0]), grid).tolist()
    assert near_zero < 100 / 2048  # a bin's width, from the one value


def test_a_percentile_clips_its_share_of_both_ends():
    for percentile in (99.0, 99.9):
        quantizer = Percentile(percentile=percentile).quantizer(histogram_of(NOISE), 8)
        low, high = (level * quantizer.scale for level in quantizer.levels)
        share = (1 - percentile / 100) * len(NOISE)
        assert (high + quantizer.scale / 2 < NOISE).sum() <= share <= (high - quantizer.scale < NOISE).sum()
        assert (low - quantizer.scale / 2 > NOISE).sum() <= share <= (low + quantizer.scale > NOISE).sum()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_odd_inputs_have_a_range(method):
    for values in ([0.0], [3.0], [-2.0], [0.0] * 100_000 + [1.0], [1e-35], [1e30, -1e30]):
        x = torch.tensor(values)
        quantizer = method.quantizer(histogram_of(x), 8)
        torch.testing.assert_close(quantizer(x), x, rtol=0.01, atol=1e-30)


def test_bits_follow_the_pins():
    search = Mse(bit_width=4, pinned={"first": 8, "last": 8, "stage.*": 6})
    assert search.bit_widths(["stem", "stage.conv", "neck", "head"]) == {
        "stem": 8, "stage.conv": 6, "neck": 4, "head": 8,
    }  # fmt: skip
    with pytest.raises(InputError, match=r"activation\.pinned: no layer is called stm"):
        Mse(pinned={"stm": 8}).bit_widths(["stem"])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Mse(bit_width=1), r"activation\.bit_width=1: a bit width is a whole number from 2 to 8"),
        (lambda: Mse(bit_width=9), "from 2 to 8"),
        (lambda: Mse(bit_width="4"), "from 2 to 8"),
        (lambda: Mse(pinned={"first": 16}), r"activation\.pinned\.first=16"),
        (lambda: Mse(drop=1.5), r"activation\.drop=1\.5"),
        (lambda: Percentile(percentile=50), r"activation\.percentile=50"),
        (lambda: Percentile(percentile=100.1), r"activation\.percentile"),
    ],
)
def test_options_are_checked(make, says):
    with pytest.raises(InputError, match=says):
        make()
