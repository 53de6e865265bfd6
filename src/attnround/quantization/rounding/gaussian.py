"""Moments of a rounded Gaussian, with their gradient: clip(round(c + sigma * xi)), xi ~ N(0, 1).

`exact_moments` sums over the thresholds between the levels. Learning needs them of every weight in every step, and
reads them from a `GaussianTable`: exact values at `KNOTS` knots a quantization step, of which the nearest is taken.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from attnround.quantization.grid import Grid
from attnround.quantization.shapes import Float, Int

REACH = 4.0  # thresholds further than this many sigma from c count as passed or not: Phi(-4) = 3e-5
KNOTS = 1024  # a step; see `GaussianTable` for what error this leaves
NUM_TABLES = 1024  # kept, some 100 KiB each: the layers of a network go through the same widths, one after another

Moments = tuple[Tensor, Tensor, Tensor, Tensor]  # mean, variance and their slopes in c, all of c's shape


def exact_moments(centre: Float[Tensor, "*shape"], sigma: float, grid: Grid) -> Moments:
    """Mean and variance of clip(round(c + sigma * xi)) and their slopes in c; sigma in steps."""
    return _window_sums(centre, sigma, grid.qmin, grid.qmax)


def _window_sums(centre: Float[Tensor, "*shape"], sigma: float, qmin: int, qmax: int) -> Moments:
    """From the window of thresholds within 4 sigma of the nearest level to c.

    With d = q - near, lowest = the window's lower end - near, and j the offset of a threshold near + j + 1/2:
    E[d] = lowest + sum_j Phi(z_j), E[d^2] = lowest^2 + sum_j (2j + 1) Phi(z_j), over the thresholds that exist.
    """
    reach = math.ceil(REACH * sigma)
    near = centre.round().clamp_(qmin, qmax)
    offset = centre - near
    lowest = (qmin - near).clamp_(min=-reach)
    highest = (qmax - near).clamp_(max=reach)
    first, second = lowest.clone(), lowest.square()
    slope_first, slope_second = torch.zeros_like(centre), torch.zeros_like(centre)
    for j in range(-reach, reach):
        exists = (lowest <= j) & (j < highest)
        z = (offset - (j + 0.5)).div_(sigma)
        passed = torch.special.ndtr(z).mul_(exists)
        density = z.square_().mul_(-0.5).exp_().mul_(exists)
        first.add_(passed)
        second.add_(passed, alpha=2 * j + 1)
        slope_first.add_(density)
        slope_second.add_(density, alpha=2 * j + 1)
    slope_second.addcmul_(first, slope_first, value=-2)
    norm = 1 / (sigma * math.sqrt(2 * math.pi))
    variance = second.addcmul_(first, first, value=-1).clamp_(min=0)
    return near.add_(first), variance, slope_first.mul_(norm), slope_second.mul_(norm)


def gaussian_moments(
    centre: Float[Tensor, "*shape"], sigma: float, grid: Grid
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Mean and variance of clip(round(c + sigma * xi)), differentiable in the centre c; as `GaussianTable` has them."""
    return _GaussianMoments.apply(centre, GaussianTable(sigma, grid, centre))


class _GaussianMoments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, centre: Float[Tensor, "*shape"], table: "GaussianTable"
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        level, place = table.locate(centre)
        mean, variance, *slopes = (table.read(part, place) for part in table.parts)
        ctx.save_for_backward(*slopes)
        return mean.add_(level), variance

    @staticmethod
    def backward(
        ctx: Any, grad_mean: Float[Tensor, "*shape"], grad_variance: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], None]:
        slope_mean, slope_variance = ctx.saved_tensors
        return (grad_mean * slope_mean).addcmul_(grad_variance, slope_variance), None


class GaussianTable:
    """The moments of Gaussians of one width on one grid, read at the nearest of 1,024 knots a step.

    A step of the range that is further than 4 sigma from the ends is like any other, so that few of them are in the
    table: what is read is relative to a level. A knot is at most 1/2048 of a step away, by which the mean is off by as
    much as its slope makes of that: 0.0005 levels at sigma = 0.5, 0.002 at 0.1. The slopes are those of the exact
    functions at the knot, not of what is read.

    parts: mean, variance and their slopes, each [knots].
    """

    def __init__(self, sigma: float, grid: Grid, like: Tensor):
        reach = math.ceil(REACH * sigma)
        num_levels = min(grid.qmax - grid.qmin + 1, 2 * reach + 1)
        self.parts = _table(sigma, num_levels, like.dtype, like.device)
        self.lowest = grid.qmin + reach  # of the levels that the table is read relative to
        self.highest = max(grid.qmax - reach, self.lowest)
        self.first = -2 * reach - 0.5  # where the first knot's step begins, relative to such a level
        self.origin = torch.full((), -KNOTS * self.first, dtype=like.dtype, device=like.device)  # a level's, in knots

    def mean(self, centre: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Of the Gaussians around these centres."""
        level, place = self.locate(centre)
        return self.read(self.parts[0], place).add_(level)

    def variance(self, centre: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Of the Gaussians around these centres."""
        return self.read(self.parts[1], self.locate(centre)[1])

    def locate(self, centre: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Int[Tensor, "*shape"]]:
        """The level that the mean is read relative to and the place of the nearest knot; the level of NaN is NaN."""
        level = centre.round().clamp_(self.lowest, self.highest)
        knot = torch.add(self.origin, centre - level, alpha=KNOTS).clamp_(0, len(self.parts[0]) - 1)
        return level, knot.nan_to_num_().int().long()  # by way of int32: there is no AVX2 instruction to int64

    def read(self, part: Float[Tensor, " knots"], place: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The part's values at these places."""
        return part.take(place)


@functools.lru_cache(NUM_TABLES)
def _table(sigma: float, num_levels: int, dtype: torch.dtype, device: torch.device) -> Moments:
    """The moments at all knots, for levels from -reach on; the knots reach `reach` steps beyond the end levels."""
    reach = math.ceil(REACH * sigma)
    num_knots = (num_levels + 2 * reach) * KNOTS
    knots = -2 * reach - 0.5 + (torch.arange(num_knots, dtype=torch.float64) + 0.5) / KNOTS
    parts = _window_sums(knots, sigma, -reach, num_levels - 1 - reach)
    mean, variance, slope_mean, slope_variance = (part.to(device, dtype) for part in parts)
    return mean, variance, slope_mean, slope_variance
