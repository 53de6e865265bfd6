"""The searches for an activation's range: from a histogram of its values to a scale and a zero point."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from attnround.errors import InputError, check_number, choice
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.grid import Grid
from attnround.quantization.histogram import Histogram
from attnround.quantization.pins import Pins, check_bit_width, check_pins, pinned_bits
from attnround.quantization.shapes import Float64, Real

PLACEMENTS = ("inputs", "onnxruntime", "tensorrt", "openvino")
SYMMETRIC = ("tensorrt",)  # of those, for a runtime that has signed codes alone, without a zero point
TINY = 1e-30  # a narrower range counts as zeros only
# Ranges that Mse tries: 12 sizes an octave from the whole range down to 1/64 of it, each at up to 9 places; then 8 more
# sizes and 4 more places to either side of the best of them.
OCTAVE, NUM_OCTAVES, NUM_PLACES = 12, 6, 9
NUM_FINE = 8


@dataclass(frozen=True)
class RangeSearch(ABC):
    """Base of the searches, one scale and zero point for each quantized layer's input.

    bit_width: of every input but the pinned ones; pinned: `first`, `last` or a name pattern of a layer -> the bits of
    its input, so that `first` is the image, or of a value of attention, as `*.probability`; drop: QDrop's probability
    that a value stays float, in block training; placement: of `PLACEMENTS`: the layers' inputs alone, or more values,
    at 8 bits, as a runtime wants them, with ranges that are the same on both sides of zero where it is of `SYMMETRIC`;
    attention: whether what products of two values take is quantized as well, at
    bit_width: queries, keys, probabilities, values.
    """

    bit_width: int = 8
    pinned: Pins = field(default_factory=dict)
    drop: float = 0.0
    placement: str = "inputs"
    attention: bool = False
    learned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_bit_width("activation.bit_width", self.bit_width)
        check_pins("activation.pinned", self.pinned)
        check_number("activation.drop", self.drop, least=0, most=1)
        if self.placement not in PLACEMENTS:
            raise InputError(choice("activation.placement", self.placement, PLACEMENTS))

    def bit_widths(self, names: Sequence[str], products: Sequence[str] = ()) -> dict[str, int]:
        """Bits of these layers' inputs, which come in execution order, and of these values that products take.

        Raises InputError as `pinned_bits` does.
        """
        pinned = pinned_bits("activation.pinned", self.pinned, names, products)
        return dict.fromkeys((*names, *products), self.bit_width) | pinned

    def quantizer(self, histogram: Histogram, bit_width: int) -> ActivationQuantizer:
        """The quantizer of inputs with this histogram."""
        scale, zero_point = 1.0, 0
        grid = Grid(bit_width, symmetric=False)
        if self.placement in SYMMETRIC:
            zero_point = middle(grid)
        if histogram.high - histogram.low > TINY:
            found = self.search_symmetric if self.placement in SYMMETRIC else self.search
            scale, zero_point = found(histogram, grid)
        return ActivationQuantizer(
            scale, zero_point, bit_width, learned=self.learned, scale_gradient=self.scale_gradient, drop=self.drop
        )

    @property
    def scale_gradient(self) -> bool:
        """Whether a learned scale's gradient is scaled, as `ActivationQuantizer` has it."""
        return False

    @abstractmethod
    def search(self, histogram: Histogram, grid: Grid) -> tuple[float, int]:
        """Scale and zero point for a histogram whose range is not empty."""

    def search_symmetric(self, histogram: Histogram, grid: Grid) -> tuple[float, int]:
        """The same with the zero point in the middle: the range that is found, as far as it reaches on either side."""
        scale, zero_point = self.search(histogram, grid)
        return symmetric(scale * max(zero_point, grid.qmax - zero_point), grid)


@dataclass(frozen=True)
class Float(RangeSearch):
    """No input is quantized."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.placement != "inputs":
            raise InputError(f"activation.placement={self.placement}: no input is quantized: give activation=mse")
        if self.attention:
            raise InputError("activation.attention=true: no input is quantized: give activation=mse")

    def bit_widths(self, names: Sequence[str], products: Sequence[str] = ()) -> dict[str, int]:
        return {}

    def search(self, histogram: Histogram, grid: Grid) -> tuple[float, int]:
        raise NotImplementedError


@dataclass(frozen=True)
class _Ends(RangeSearch):
    """Base of those that say where a range ends, whatever the grid."""

    @abstractmethod
    def ends(self, histogram: Histogram) -> tuple[float, float]:
        """The lowest and the highest value."""

    def search(self, histogram: Histogram, grid: Grid) -> tuple[float, int]:
        return affine(*self.ends(histogram), grid)

    def search_symmetric(self, histogram: Histogram, grid: Grid) -> tuple[float, int]:
        return symmetric(max(map(abs, self.ends(histogram))), grid)


@dataclass(frozen=True)
class MinMax(_Ends):
    """The range of all values seen."""

    def ends(self, histogram: Histogram) -> tuple[float, float]:
        return histogram.low, histogram.high


@dataclass(frozen=True)
class Percentile(_Ends):
    """The range within these percentiles: 99.99 clips a value in 10,000 at each end that is not zero."""

    percentile: float = 99.99

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("activation.percentile", self.percentile, above=50, most=100)

    def ends(self, histogram: Histogram) -> tuple[float, float]:
        low, high = (histogram.quantile(percent / 100) for percent in (100 - self.percentile, self.percentile))
        if max(high, 0) - min(low, 0) <= 2 * histogram.width:  # hardly a value is not zero, but those count
            low, high = histogram.low, histogram.high
        return low, high


@dataclass(frozen=True)
class Mse(RangeSearch):
    """The range of least mean squared error, both ends free where values of both signs occur."""

    def search(self, histogram: Histogram, grid: Grid) -> tuple[float, int]:
        best = least(histogram, *coarse(histogram.low, histogram.high, grid), grid)
        return least(histogram, *fine(*best, grid), grid)

    def search_symmetric(self, histogram: Histogram, grid: Grid) -> tuple[float, int]:
        largest, zero_point = symmetric(max(-histogram.low, histogram.high), grid)
        zero = torch.tensor([float(zero_point)], dtype=torch.float64)
        best, _ = least(histogram, *pairs(sizes(largest), zero), grid)
        return least(histogram, *pairs(nearby(best), zero), grid)


@dataclass(frozen=True)
class Lsq(Mse):
    """Starts where Mse ends, and the scale is learned with the block objective (arXiv 1902.08153).

    The layer objective sees only moments of the activations and learns no scale of theirs: with it this is Mse.
    """

    scale_gradient: bool = True
    learned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.placement != "inputs":
            raise InputError(
                f"activation.placement={self.placement}: the scales of layers' inputs alone are learned: give "
                "activation=mse"
            )
        if self.attention:
            raise InputError(
                "activation.attention=true: the scales of layers' inputs alone are learned: give activation=mse"
            )


def affine(low: float, high: float, grid: Grid) -> tuple[float, int]:
    """Scale and zero point of the range low..high and zero, for a grid from 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / grid.qmax
    return scale, round(-low / scale)


def middle(grid: Grid) -> int:
    """The zero point of a grid from 0 whose codes less it are signed integers."""
    return (grid.qmax + 1) // 2


def symmetric(reach: float, grid: Grid) -> tuple[float, int]:
    """Scale and zero point of the range -reach..reach, for a grid from 0."""
    return reach / (grid.qmax - middle(grid)), middle(grid)


def sizes(largest: float) -> Float64[Tensor, " K"]:
    """Scales from the largest down."""
    return largest * 2 ** (-torch.arange(OCTAVE * NUM_OCTAVES + 1, dtype=torch.float64) / OCTAVE)


def nearby(scale: float) -> Float64[Tensor, " K"]:
    """Scales around this one."""
    return scale * 2 ** (torch.arange(-NUM_FINE, NUM_FINE + 1, dtype=torch.float64) / (NUM_FINE * OCTAVE))


def coarse(low: float, high: float, grid: Grid) -> tuple[Float64[Tensor, " K"], Float64[Tensor, " K"]]:
    """Scales and zero points of ranges within low..high, of falling size, each size at several places.

    The first place of a size clips only the highest values and the last only the lowest ones. Where no value is
    negative, only the first is tried.
    """
    largest, _ = affine(low, high, grid)
    scale = sizes(largest)
    places = torch.linspace(0, 1, NUM_PLACES if low < 0 < high else 1, dtype=torch.float64)
    all_below = (-low / scale).round_().clamp_(0, grid.qmax)[:, None]
    all_above = (grid.qmax - high / scale).round_().clamp_(0, grid.qmax)[:, None]
    return pairs(scale[:, None], (all_below + places * (all_above - all_below)).round_())


def fine(scale: float, zero_point: int, grid: Grid) -> tuple[Float64[Tensor, " K"], Float64[Tensor, " K"]]:
    """Scales and zero points around these; an end of the range that is zero stays zero."""
    shifts = torch.arange(-4, 5) * math.ceil(grid.qmax / 64) if 0 < zero_point < grid.qmax else torch.zeros(1)
    return pairs(nearby(scale)[:, None], (zero_point + shifts).clamp_(0, grid.qmax).double())


def pairs(
    scale: Float64[Tensor, "*#shape"], zero_point: Float64[Tensor, "*#shape"]
) -> tuple[Float64[Tensor, " K"], Float64[Tensor, " K"]]:
    """The distinct pairs of two tensors that are broadcast against each other."""
    scale, zero_point = torch.stack(torch.broadcast_tensors(scale, zero_point)).flatten(1).unique(dim=1)
    return scale, zero_point


def least(
    histogram: Histogram, scale: Float64[Tensor, " K"], zero_point: Float64[Tensor, " K"], grid: Grid
) -> tuple[float, int]:
    """The pair of scale and zero point with the least squared error."""
    best = squared_error(histogram, scale, zero_point, grid).argmin()
    return scale[best].item(), int(zero_point[best])


def squared_error(
    histogram: Histogram, scale: Real[Tensor, " K"], zero_point: Real[Tensor, " K"], grid: Grid
) -> Float64[Tensor, " K"]:
    """Sum of (x' - x)^2 for each pair of scale and zero point.

    Exact zeros have no error; all other values are taken as spread evenly within their bin, whose error is then an
    integral. With n the level of u = x / scale and r = u - n, an antiderivative of r^2 is n / 12 + r^3 / 3, outside the
    range too, so that bins may be wider than steps.
    """
    spread = histogram.counts.double()
    spread[-histogram.first] -= histogram.zeros
    used = spread.nonzero().flatten()
    ends = histogram.edges[torch.stack([used, used + 1])]
    u = ends / scale[:, None, None]
    lowest = -zero_point[:, None, None]
    level = u.round().clamp_(lowest, lowest + grid.qmax)
    integral = (u - level).pow_(3).div_(3).add_(level, alpha=1 / 12)
    return (integral[:, 1] - integral[:, 0]) @ spread[used] * scale**3 / histogram.width
