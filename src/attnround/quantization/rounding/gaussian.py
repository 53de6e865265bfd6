"""Moments of a rounded Gaussian, with their exact gradient: clip(round(c + sigma * xi)), xi ~ N(0, 1)."""

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnround.quantization.grid import Grid
from attnround.quantization.shapes import Float

log = logging.getLogger(__name__)
REACH = 4.0  # thresholds further than this many sigma from c count as passed or not: Phi(-4) = 3e-5


def gaussian_moments(
    centre: Float[Tensor, "*shape"], sigma: float, grid: Grid, fused: bool = False
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Mean and variance of clip(round(c + sigma * xi)), differentiable in the centre c; sigma in steps.

    fused: in one compiled pass over c, which takes seconds to compile once; of no effect where nothing compiles.
    """
    return _GaussianMoments.apply(centre, sigma, grid.qmin, grid.qmax, fused)


class _GaussianMoments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, centre: Float[Tensor, "*shape"], sigma: float, qmin: int, qmax: int, fused: bool
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        window_sums = _fused_window_sums() if fused else _window_sums
        # as tensors, so that the compiled pass is the same for every width and bit width
        width, lowest, highest = centre.new_tensor([sigma, qmin, qmax]).unbind()
        mean, variance, *slopes = window_sums(centre, width, lowest, highest, math.ceil(REACH * sigma))
        ctx.save_for_backward(*slopes)
        return mean, variance

    @staticmethod
    def backward(
        ctx: Any, grad_mean: Float[Tensor, "*shape"], grad_variance: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], None, None, None, None]:
        slope_mean, slope_variance = ctx.saved_tensors
        return (grad_mean * slope_mean).addcmul_(grad_variance, slope_variance), None, None, None, None


def _window_sums(
    centre: Float[Tensor, "*shape"],
    sigma: Float[Tensor, ""],
    qmin: Float[Tensor, ""],
    qmax: Float[Tensor, ""],
    reach: int,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Mean, variance and their slopes in c, from the window of thresholds within `reach` levels of the nearest to c.

    With d = q - near, lowest = the window's lower end - near, and j the offset of a threshold near + j + 1/2:
    E[d] = lowest + sum_j Phi(z_j), E[d^2] = lowest^2 + sum_j (2j + 1) Phi(z_j), over the thresholds that exist.
    """
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


@functools.cache
def _fused_window_sums() -> Callable[..., tuple[Tensor, ...]]:
    """`_window_sums` compiled, or as it is where that fails, which the log then says."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns where there is no CUDA
    compiled = torch.compile(_window_sums, dynamic=True)
    try:
        width, lowest, highest = torch.tensor([0.5, -8.0, 7.0]).unbind()
        compiled(torch.zeros(64), width, lowest, highest, 2)
    except Exception as error:  # a missing compiler, a full disk, a read-only home: each raises its own kind
        log.info("  no compiler for fused rounding (%s): running without", type(error).__name__)
        return _window_sums

    def flat(centre: Tensor, *more: Any) -> tuple[Tensor, ...]:
        return tuple(part.reshape(centre.shape) for part in compiled(centre.detach().flatten(), *more))

    return flat
