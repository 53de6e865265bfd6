"""Coordinate descent on Gaussians: every weight's centre in turn goes where the objective is least given the others.

With the means m of the levels, e = m - b and b the best real-valued levels, a quadratic objective in the mean of one
weight alone is a parabola with its lowest point at

    c_j = m_j - (e H)_j / H_jj,    for coupled rows c_ij = m_ij - (K e H)_ij / (K_ii H_jj)

which m_j itself cancels from. The Gaussian moves there and m_j becomes E[clip(round(c_j + sigma xi))]. No rate and no
gradient is needed, and at sigma = 0 this is coordinate descent on the levels.

Its fixed points are those of e H e^T + 2 sum_j H_jj integral (c(m) - m) dm over the means, with c(m) the centre that
has mean m. Where sigma is wide c(m) = m, and the least is at b; where it is narrow the second term is H_jj times the
variance of m_j on its two neighbours, so that this is the expected objective, whose least is at integers.
"""

import copy
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from attnround.quantization.rounding.base import Quadratic
from attnround.quantization.rounding.gaussian import GaussianTable
from attnround.quantization.shapes import Float

NUM_GROUPS = 16  # of columns, at least, where there are as many
GROUP_SIZE = 32  # columns that move at once, at most, where that makes more groups
NUM_BLOCKS = 8  # of coupled rows, which move after one another: 8 come 0.3 dB further at 4 bits than 2
STABLE = 1.5  # largest eigenvalue at which columns move all the way; above 2 they overshoot together


class MeanField:
    """Sweeps over the weights of a quadratic objective, group by group.

    A group is every k-th column, of all rows or of a block of them where rows are coupled, and moves at once. Its
    weights are not quite independent: they go only a part of the way where the largest eigenvalue of their second
    moments, scaled to a diagonal of ones, is above `STABLE`, or that of their rows' coupling is above 1.

    Within, columns are the middle axis, those of a group side by side.
    """

    captured: "_CapturedSweep | None" = None

    def __init__(self, objective: Quadratic):
        self.gain, self.coupling = objective.gain.mT, objective.coupling
        second, num_columns = objective.second, objective.second.shape[1]
        num_groups = min(num_columns, max(NUM_GROUPS, -(-num_columns // GROUP_SIZE)))
        groups = [torch.arange(first, num_columns, num_groups, device=second.device) for first in range(num_groups)]
        self.sizes, self.order = [len(group) for group in groups], torch.cat(groups)
        self.back = self.order.argsort()
        self.best = objective.centre.mT.index_select(1, self.order)
        second = second[:, self.order[:, None], self.order]
        self.diagonal = second.diagonal(dim1=1, dim2=2)[:, :, None].contiguous()
        self.second, self.inverses = second.split(self.sizes, 1), (-1 / self.diagonal).split(self.sizes, 1)
        ends = itertools.accumulate(self.sizes, initial=0)
        eigenvalues = [_largest_eigenvalue(second, slice(*each)) for each in itertools.pairwise(ends)]
        self.blocks = list(self._blocks([(STABLE / each).clamp(max=1) for each in eigenvalues]))

    def _blocks(self, rates: list[Float[Tensor, "G 1 1"]]) -> Iterator[tuple[slice, list[Float[Tensor, "G 1 1"]]]]:
        """Every block of rows, and what part of the way each group of its columns goes."""
        if self.coupling is None:
            yield slice(None), rates
            return
        num_rows = self.coupling.shape[1]
        size = -(-num_rows // NUM_BLOCKS)
        for first in range(0, num_rows, size):
            rows = slice(first, first + size)
            eigenvalue = _largest_eigenvalue(self.coupling, rows)
            yield rows, [rate / eigenvalue for rate in rates]

    @torch.no_grad()
    def sweep(self, centre: Float[Tensor, "G o n"], table: GaussianTable) -> Float[Tensor, ""]:
        """Move every centre once, in place; return the expected objective, every group's share as it was met."""
        if not centre.is_cuda:
            return self._sweep(centre, table)
        if self.captured is None or not self.captured.fits(table):
            self.captured = _CapturedSweep(self._sweep, centre, table)
        return self.captured(centre, table)

    def _sweep(self, centre: Float[Tensor, "G o n"], table: GaussianTable) -> Float[Tensor, ""]:
        placed = centre.mT.index_select(1, self.order)
        mean = table.mean(placed)
        loss = (table.variance(placed) * self.diagonal * self.gain).sum()
        for rows, rates in self.blocks:
            loss += self._sweep_rows(rows, rates, placed, mean, table)
        centre.copy_(placed.index_select(1, self.back).mT)
        return loss

    def _sweep_rows(
        self,
        rows: slice,
        rates: list[Float[Tensor, "G 1 1"]],
        placed: Float[Tensor, "G n o"],
        mean: Float[Tensor, "G n o"],
        table: GaussianTable,
    ) -> Float[Tensor, ""]:
        """Move the centres of a block of rows, and their means with them; return its share of the quadratic form."""
        gain, error = self.gain[:, :, rows], mean - self.best
        if self.coupling is not None:
            error = error @ (self.coupling[:, :, rows] / gain)
            within = self.coupling[:, rows, rows] / gain
        product = torch.empty_like(error)
        parts = [each.split(self.sizes, 1) for each in (placed[:, :, rows], mean[:, :, rows], error, product)]
        for second, inverse, rate, at, level, wrong, slope in zip(
            self.second, self.inverses, rates, *parts, strict=True
        ):
            torch.bmm(second, error, out=slope)
            at.lerp_(torch.addcmul(level, slope, inverse), rate)
            change = table.mean(at).sub_(level)
            level += change
            wrong += change if self.coupling is None else change @ within
        return ((mean - self.best)[:, :, rows] * product * gain).sum()


class _CapturedSweep:
    """A sweep as a CUDA graph, for tables of one size: thousands of small kernels cost more to launch than to run."""

    def __init__(
        self,
        sweep: Callable[[Tensor, GaussianTable], Tensor],
        centre: Float[Tensor, "G o n"],
        table: GaussianTable,
    ):
        self.centre, self.table = centre.clone(), copy.copy(table)
        mean, variance, slope_mean, slope_variance = (part.clone() for part in table.parts)
        self.table.parts = mean, variance, slope_mean, slope_variance
        aside = torch.cuda.Stream(centre.device)
        aside.wait_stream(torch.cuda.current_stream(centre.device))
        with torch.cuda.stream(aside):
            sweep(centre.clone(), self.table)  # what a library sets up on its first call must not be captured
        torch.cuda.current_stream(centre.device).wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = sweep(self.centre, self.table)

    def fits(self, table: GaussianTable) -> bool:
        return (table.lowest, table.highest, table.first) == (self.table.lowest, self.table.highest, self.table.first)

    def __call__(self, centre: Float[Tensor, "G o n"], table: GaussianTable) -> Float[Tensor, ""]:
        self.centre.copy_(centre)
        for mine, given in zip(self.table.parts, table.parts, strict=True):
            mine.copy_(given)
        self.graph.replay()
        centre.copy_(self.centre)
        return self.loss.clone()


def _largest_eigenvalue(matrix: Float[Tensor, "G n n"], part: slice) -> Float[Tensor, "G 1 1"]:
    """Of a part of the rows and columns, scaled to a diagonal of ones; small ones are fastest on the CPU."""
    inside = matrix[:, part, part].cpu()
    scale = inside.diagonal(dim1=1, dim2=2).rsqrt()
    scaled = inside * scale[:, :, None] * scale[:, None, :]
    return torch.linalg.eigvalsh(scaled)[:, -1, None, None].to(matrix.device)
