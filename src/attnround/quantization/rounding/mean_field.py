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
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnround.quantization.rounding.base import Quadratic
from attnround.quantization.rounding.gaussian import GaussianTable
from attnround.quantization.shapes import Float

NUM_GROUPS = 16  # of columns, at least, where there are as many
GROUP_SIZE = 32  # columns that move at once, at most, where that makes more groups
NUM_BLOCKS = 8  # of coupled rows: 8 come 0.3 dB further at 4 bits than 2
AT_ONCE = 4  # blocks that move at once, each in another group of columns: 2 come no further, and all 8 less far
STABLE = 1.8  # largest eigenvalue at which weights move all the way; above 2 they overshoot together
NUM_PRODUCTS = 12  # that the largest eigenvalue is found by
TINY = 1e-30


class MeanField:
    """Sweeps over the weights of a quadratic objective, part by part.

    A group is every k-th column. A part is a group in all rows, or where rows are coupled, `AT_ONCE` groups, each in
    another block of rows: two weights of different blocks are coupled by the product of what couples their rows and
    what couples their columns. A part moves at once. Its weights are not quite independent: they go only a part of the
    way where the largest eigenvalue of their second derivatives, scaled to a diagonal of ones, is above `STABLE`.

    Within, weights are arranged as a sweep meets them, [T, N, PG, s, r]: in each of T turns P blocks of r rows move, of
    all G matrices; at the k-th of its N parts the i-th of these blocks moves in the group k + i of s columns. `order`
    is that of the columns, group by group. Zeros fill the last group and the last block up.
    """

    captured: "_CapturedSweep | None" = None

    def __init__(self, objective: Quadratic):
        (num_matrices, num_rows, num_columns), device = objective.centre.shape, objective.centre.device
        coupling = objective.coupling
        block_size = num_rows if coupling is None else -(-num_rows // NUM_BLOCKS)
        num_blocks = -(-num_rows // block_size)
        at_once = min(AT_ONCE, num_blocks)
        num_turns = -(-num_blocks // at_once)
        num_groups = max(at_once, min(num_columns, max(NUM_GROUPS, -(-num_columns // GROUP_SIZE))))
        group_size = -(-num_columns // num_groups)
        self.columns = num_matrices, num_groups, group_size
        self.rows = at_once, num_turns, block_size
        self.num_rows, self.num_more = num_rows, at_once * num_turns * block_size - num_rows

        order = torch.arange(group_size * num_groups, device=device).view(group_size, num_groups).mT.flatten()
        exists = order < num_columns
        self.back, self.order = order.argsort()[:num_columns], order.where(exists, 0)
        self.block = torch.arange(at_once, device=device)
        part = torch.arange(num_groups, device=device)[:, None]
        self.group, self.part = (part + self.block) % num_groups, (part - self.block) % num_groups

        second = objective.second[:, self.order[:, None], self.order] * (exists[:, None] & exists)
        grouped = second.unflatten(1, (num_groups, group_size)).transpose(0, 1)
        self.second = torch.cat([grouped, grouped[: at_once - 1]])
        diagonal = second.diagonal(dim1=1, dim2=2).view(self.columns).transpose(0, 1)[self.group]
        self.diagonal = diagonal.flatten(1, 2)[:, :, :, None]
        self.inverse = torch.where(self.diagonal > 0, -1 / self.diagonal, 0)
        gain = pad(objective.gain[:, :, 0], (0, self.num_more))
        self.gain = gain.view(num_matrices, *self.rows).permute(2, 1, 0, 3).flatten(1, 2)[:, None, :, None]
        self.best = self._arranged(objective.centre)
        self.coupling = self.onward = None
        if coupling is not None:  # by turns: of all rows with those that move, [G, o, Pr], and of these, [PG, r, Pr]
            coupling = pad(coupling, (0, self.num_more) * 2)
            coupled = (coupling / gain.where(gain > 0, 1)[:, None]).unflatten(2, self.rows)
            self.coupling = [coupled[:, :, :, turn].flatten(2) for turn in range(num_turns)]
            onward = [each.unflatten(1, self.rows)[:, :, turn] for turn, each in enumerate(self.coupling)]
            self.onward = [each.transpose(0, 1).flatten(0, 1) for each in onward]
        self.rate = (STABLE / self._largest_eigenvalues(second, coupling)).clamp(max=1)

    def _arranged(self, weights: Float[Tensor, "G o n"]) -> Float[Tensor, "T N PG s r"]:
        filled = pad(weights.mT.index_select(1, self.order), (0, self.num_more)).view(*self.columns, *self.rows)
        parts = filled.permute(1, 3, 4, 0, 2, 5)[self.group, self.block]
        return parts.permute(2, 0, 1, 3, 4, 5).flatten(2, 3).contiguous()

    def _filled(self, arranged: Float[Tensor, "T N PG s r"]) -> Float[Tensor, "G n o"]:
        """The columns group by group, and the zeros too."""
        (num_matrices, num_groups, group_size), (at_once, num_turns, block_size) = self.columns, self.rows
        parts = arranged.view(num_turns, num_groups, at_once, num_matrices, group_size, block_size)
        blocks = parts.permute(1, 2, 0, 3, 4, 5)[self.part, self.block]
        return blocks.permute(3, 0, 4, 1, 2, 5).reshape(num_matrices, num_groups * group_size, -1)

    def _largest_eigenvalues(
        self, second: Float[Tensor, "G n n"], coupling: Float[Tensor, "G o o"] | None
    ) -> Float[Tensor, "T N PG 1 1"]:
        """Of every part's second derivatives, scaled to a diagonal of ones, by the power method, from below."""
        at_once, num_turns, _ = self.rows
        columns = _scaled(second).view(*self.columns, *self.columns[1:]).transpose(0, 1)
        columns = columns[self.group[:, :, None], :, :, self.group[:, None, :]]
        if coupling is None:
            rows = second.new_ones(len(second), 1, 1, 1, 1, 1, 1)
        else:
            rows = _scaled(coupling).view(len(coupling), *self.rows, *self.rows)
        start = torch.rand(self.columns[2], rows.shape[3], generator=torch.Generator().manual_seed(0)).to(second)
        found = []
        for turn in range(num_turns):
            coupled = rows[:, :, turn, :, :, turn]
            x = start.expand(*columns.shape[:2], len(second), -1, -1)
            for _ in range(NUM_PRODUCTS):
                x = x / torch.linalg.vector_norm(x, dim=(1, 3, 4), keepdim=True).clamp(min=TINY)
                x = torch.einsum("nabgst,nbgtk->nabgsk", columns, x)
                x = torch.einsum("nabgsk,gbkaj->nagsj", x, coupled)
            found.append(torch.linalg.vector_norm(x, dim=(1, 3, 4)))
        return torch.stack(found).repeat(1, 1, at_once)[:, :, :, None, None]

    @torch.no_grad()
    def sweep(self, centre: Float[Tensor, "G o n"], table: GaussianTable) -> Float[Tensor, ""]:
        """Move every centre once, in place; return the expected objective, every part's share as it was met."""
        if not centre.is_cuda:
            return self._sweep(centre, table)
        if self.captured is None or not self.captured.fits(table):
            self.captured = _CapturedSweep(self._sweep, centre, table)
        return self.captured(centre, table)

    def _sweep(self, centre: Float[Tensor, "G o n"], table: GaussianTable) -> Float[Tensor, ""]:
        placed = self._arranged(centre)
        mean = table.mean(placed)
        loss = (table.variance(placed) * self.diagonal * self.gain).sum()
        product = torch.empty_like(mean)
        for turn in range(len(placed)):
            error = self._filled(mean - self.best)
            if self.coupling is not None:
                error = error @ self.coupling[turn]
            self._take_turn(turn, placed[turn], mean[turn], error, product[turn], table)
        loss += ((mean - self.best) * product * self.gain).sum()
        centre.copy_(self._filled(placed)[:, self.back, : self.num_rows].mT)
        return loss

    def _take_turn(
        self,
        turn: int,
        placed: Float[Tensor, "N PG s r"],
        mean: Float[Tensor, "N PG s r"],
        error: Float[Tensor, "G n Pr"],
        product: Float[Tensor, "N PG s r"],
        table: GaussianTable,
    ) -> None:
        """Move the centres of these blocks of rows, their means, and what they make of the error in these rows."""
        at_once = self.rows[0]
        blocks = error.unflatten(2, (at_once, -1)).permute(2, 0, 1, 3)
        groups = error.view(*self.columns, -1)
        for k, (at, level, slope, inverse, rate) in enumerate(
            zip(placed, mean, product, self.inverse, self.rate[turn], strict=True)
        ):
            torch.bmm(self.second[k : k + at_once].flatten(0, 1), blocks.flatten(0, 1), out=slope)
            at.lerp_(torch.addcmul(level, slope, inverse), rate)
            change = table.mean(at).sub_(level)
            level += change
            if self.onward is not None:
                change = change @ self.onward[turn]
            groups.index_add_(1, self.group[k], change.unflatten(0, (at_once, -1)).transpose(0, 1))


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


def _scaled(matrix: Float[Tensor, "G n n"]) -> Float[Tensor, "G n n"]:
    """To a diagonal of ones, or of zeros where nothing is."""
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0)
    return matrix * scale[:, :, None] * scale[:, None, :]
