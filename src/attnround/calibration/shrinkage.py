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


class SampledMoment:
    """Sums up samples of a second moment [G, n, n], and how much they differ.

    The squares of a sample's entries are those of X^T X, [n, n], or of X X^T, [P, P] and of the same norm, whichever is
    smaller. For that the values are scaled as in the first batch, in which each then has a mean square of 1. dtype: of
    the sums over batches.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.scale: Tensor | None = None
        self.second: Tensor | None = None  # above the diagonal alone
        self.square = self.diagonal_square = 0.0
        self.num_samples = 0

    def add(self, rows: Tensor) -> None:
        """A batch of N images' rows [G, N, P, n]."""
        num_places, num_values = rows.shape[2:]
        few = num_values <= num_places
        samples = rows.mT @ rows / num_places if few else None  # [G, N, n, n]
        squares = rows.square().mean(2) if samples is None else samples.diagonal(dim1=2, dim2=3)  # [G, N, n]
        if self.scale is None:
            self.scale = squares.mean(1).clamp(min=TINY).rsqrt()
        if self.second is None:
            self.second = rows.new_zeros(len(rows), num_values, num_values, dtype=self.dtype)
        if samples is None:
            add_product(self.second, rows.flatten(1, 2).div(num_places**0.5))
        else:
            self.second += samples.sum(1)
        self.num_samples += rows.shape[1]
        if num_values > 1:
            scale = self.scale[:, None, None]
            if samples is None:
                scaled = rows * scale
                products = scaled @ scaled.mT / num_places
            else:
                products = samples * scale * scale.mT
            self.square += products.square().sum().item()
            self.diagonal_square += (squares * self.scale[:, None].square()).square().sum().item()

    def unite(self, num_groups: int, num_values: int) -> None:
        """Make the sums those of all processes that have a part of the batches, of G groups of n values."""
        if num_ranks() == 1:
            return
        device = None if self.scale is None else self.scale.device
        empty = torch.zeros(num_groups, num_values, num_values, dtype=self.dtype, device=device)
        self.second = summed({"second": empty if self.second is None else self.second})["second"]
        counts = gathered((self.square, self.diagonal_square, self.num_samples))
        self.square, self.diagonal_square, self.num_samples = (sum(each) for each in zip(*counts, strict=True))

    def mean(self) -> Tensor:
        """[G, n, n] in float32, of at least one sample."""
        assert self.second is not None, "no sample"
        return mirrored(self.second / self.num_samples).float()

    def sampling_share(self) -> float:
        """The share of the squared correlations that is sampling error, from 0 to 1."""
        assert self.scale is not None, "no sample"
        scaled = self.mean() * self.scale[:, :, None] * self.scale[:, None, :]
        total = scaled.square().sum().item() - scaled.diagonal(dim1=1, dim2=2).square().sum().item()
        squares = (self.square - self.diagonal_square) / self.num_samples
        error = (squares - total) / max(self.num_samples - 1, 1)
        return min(max(error / total, 0.0), 1.0) if total > 0 else 1.0


def shrunk(moment: Tensor, share: float) -> Tensor:
    """A second moment [G, n, n] with its correlations less this share of them."""
    return (1 - share) * moment + share * torch.diag_embed(moment.diagonal(dim1=1, dim2=2))
