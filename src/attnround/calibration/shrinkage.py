"""Second moments of few images: how much of their correlations is sampling error, and what they are without it.

The places of an image are alike, so that an image is one sample, M = X^T X / P of its rows X at P places. The mean of
the samples is off by their variance over their number. Correlations are shrunk by the share of their squares that this
is: Schaefer, Strimmer, "A Shrinkage Approach to Large-Scale Covariance Matrix Estimation", Statistical Applications in
Genetics and Molecular Biology 4(1), 2005.
"""

import torch
from torch import Tensor

from attnround.calibration.moments import add_product, mirrored
from attnround.ranks import gathered, num_ranks, summed

TINY = 1e-30  # of the second moment of a value that is always zero
SOME = 128  # values, evenly spread over all, among whose products the sampling error is found


class SampledMoment:
    """Sums up samples of a second moment [G, n, n], and the squares of their entries among some of the values.

    Squares are summed entry by entry, as only all samples say what a value's scale is: one that is zero in the first
    hundred images may be the largest after them. dtype: of the sums of samples.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.second: Tensor | None = None  # above the diagonal alone
        self.square: Tensor | None = None  # [G, k, k] of k values
        self.num_samples = 0

    def add(self, rows: Tensor) -> None:
        """A batch of N images' rows [G, N, P, n]."""
        (num_groups, num_images, num_places, num_values), some = rows.shape, _some(rows)
        if self.second is None or self.square is None:
            self.second = rows.new_zeros(num_groups, num_values, num_values, dtype=self.dtype)
            self.square = rows.new_zeros(num_groups, some.shape[3], some.shape[3], dtype=torch.float64)
        add_product(self.second, rows.flatten(1, 2).div(num_places**0.5))
        self.square += (some.mT @ some / num_places).double().square().sum(1)
        self.num_samples += num_images

    def unite(self, num_groups: int, num_values: int, device: torch.device) -> None:
        """Make the sums those of all processes that have a part of the batches, of G groups of n values."""
        if num_ranks() == 1:
            return
        if self.second is None:
            self.add(torch.zeros(num_groups, 0, 1, num_values, device=device))
        assert self.second is not None
        assert self.square is not None
        self.second, self.square = summed({"second": self.second, "square": self.square}).values()
        self.num_samples = sum(gathered(self.num_samples))

    def mean(self) -> Tensor:
        """[G, n, n] in float32, of at least one sample."""
        assert self.second is not None, "no sample"
        return mirrored(self.second / self.num_samples).float()

    def sampling_share(self) -> float:
        """The share of the squared correlations that is sampling error, from 0 to 1."""
        assert self.square is not None, "no sample"
        mean = _some(_some(self.mean()).mT).double()
        scale = mean.diagonal(dim1=1, dim2=2).clamp(min=TINY).reciprocal()
        weight = (scale[:, :, None] * scale[:, None, :]).triu_(1)  # of a squared entry: that of a correlation
        total = (mean.square() * weight).sum().item()
        squares = (self.square / self.num_samples * weight).sum().item()
        error = (squares - total) / max(self.num_samples - 1, 1)
        return min(max(error / total, 0.0), 1.0) if total > 0 else 1.0


def _some(values: Tensor) -> Tensor:
    """Of the values along the last dimension those among whose products the sampling error is found."""
    return values[..., :: -(-values.shape[-1] // SOME)]


def shrunk(moment: Tensor, share: float) -> Tensor:
    """A second moment [G, n, n] with its correlations less this share of them."""
    return (1 - share) * moment + share * torch.diag_embed(moment.diagonal(dim1=1, dim2=2))
