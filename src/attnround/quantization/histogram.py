"""A histogram of values that arrive in batches and whose range is not known beforehand."""

import math

import torch
from torch import Tensor

from attnround.quantization.shapes import Float, Float64

CHUNK = 2**20  # values counted at a time, which bounds the memory that counting takes
FINEST = -100  # a bin is never narrower than 2^-100, which keeps x / width within float32


class Histogram:
    """Exact counts in `num_bins` bins of one width, a power of two, with an edge at zero.

    Bin i holds first + i <= x / width < first + i + 1. The width is the least one whose bins hold zero and all values
    seen. As values grow it doubles and pairs of bins become one, so that the counts stay exact and do not depend on the
    order of the batches. counts: int64 [num_bins]; zeros: how many values are exactly 0, counted in their bin too.
    """

    def __init__(self, num_bins: int = 2048):
        self.counts = torch.zeros(num_bins, dtype=torch.int64)
        self.low = self.high = 0.0
        self.zeros = self.first = 0
        self.exponent = FINEST

    @property
    def width(self) -> float:
        return 2.0**self.exponent

    @property
    def edges(self) -> Float64[Tensor, " num_edges"]:
        """The ends of the bins, one more than there are bins."""
        return (torch.arange(len(self.counts) + 1, dtype=torch.float64) + self.first) * self.width

    def update(self, values: Float[Tensor, "..."]) -> None:
        """Count these values. Raises ValueError where one is not finite."""
        low, high = (bound.item() for bound in values.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("a value is NaN or infinite")
        self._cover(min(low, self.low), max(high, self.high))
        for part in values.flatten().split(CHUNK):
            bins = part.float().mul(1 / self.width).floor_().sub_(self.first).int()
            self.counts += torch.bincount(bins, minlength=len(self.counts)).cpu()
            self.zeros += int((part == 0).sum())

    def add(self, other: "Histogram") -> None:
        """Count what another one has counted, of as many bins."""
        self._cover(min(self.low, other.low), max(self.high, other.high))
        other._cover(self.low, self.high)
        self.counts += other.counts
        self.zeros += other.zeros

    def quantile(self, fraction: float) -> float:
        """The value below which this fraction of the values lies, taking them as spread evenly within a bin."""
        cumulated = torch.cat([torch.zeros(1), self.counts.cumsum(0)]).double()
        target = fraction * cumulated[-1]
        place = int(torch.searchsorted(cumulated, target).clamp(1, len(self.counts)))
        inside = (target - cumulated[place - 1]) / self.counts[place - 1].clamp(min=1)
        value = (self.first + place - 1 + inside.item()) * self.width
        return min(max(value, self.low), self.high)

    def _cover(self, low: float, high: float) -> None:
        """Double the width until the bins hold this range, and move the counts to their bins of that width."""
        self.low, self.high = low, high
        if low == high:
            return
        exponent = max(self.exponent, math.frexp(high - low)[1] - len(self.counts).bit_length())
        while math.floor(high / 2.0**exponent) - math.floor(low / 2.0**exponent) >= len(self.counts):
            exponent += 1
        first = math.floor(low / 2.0**exponent)
        places = (torch.arange(len(self.counts)) + self.first >> exponent - self.exponent) - first
        held = self.counts > 0
        counts = torch.zeros_like(self.counts).index_add_(0, places[held], self.counts[held])
        self.counts, self.first, self.exponent = counts, first, exponent
