"""Attention Round: every weight may map to every level, with a probability that falls as a Gaussian of the distance.

Source: Diao, Li, Xu, Hao, "Attention Round for Post-Training Quantization", arXiv 2207.03088. The abstract gives the
idea; the formulae here are this project's reading of it:

    q = clip(round(u + alpha + sigma * xi)), xi ~ N(0, 1), alpha learned, c = u + alpha
    E[q]   = qmin   + sum_k          Phi((c - k - 1/2) / sigma)        k = qmin..qmax-1
    E[q^2] = qmin^2 + sum_k (2k + 1) Phi((c - k - 1/2) / sigma)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnround.errors import check_number
from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import Objective, Quantizer, Rounding

REACH = 4.0  # thresholds further than this many sigma from c count as passed or not: Phi(-4) = 3e-5


@dataclass(frozen=True)
class AttentionRound(Quantizer):
    """The expected weight meets the objective, the variance enters it, and sigma shrinks until the decision is clear.

    sigma, sigma_end: width of the Gaussian in quantization steps at the start and the end, geometric in between;
    lr: Adam's rate for alpha, in steps.
    """

    sigma: float = 0.5
    sigma_end: float = 0.05
    lr: float = 0.05
    num_steps: int = 200

    def __post_init__(self) -> None:
        check_number("quantizer.sigma", self.sigma, above=0)
        check_number("quantizer.sigma_end", self.sigma_end, above=0, most=self.sigma)
        check_number("quantizer.lr", self.lr, above=0)
        check_number("quantizer.num_steps", self.num_steps, least=1, whole=True)

    def start(self, u: Tensor, grid: Grid, objective: Objective) -> Rounding:
        return _AttentionRound(u, grid, self)


class _AttentionRound(Rounding):
    def __init__(self, u: Tensor, grid: Grid, settings: AttentionRound):
        super().__init__()
        self.grid = grid
        self.settings = settings
        self.register_buffer("u", u)
        self.alpha = nn.Parameter(torch.zeros_like(u))
        self.sigma = settings.sigma

    def anneal(self, progress: float) -> None:
        self.sigma = self.settings.sigma * (self.settings.sigma_end / self.settings.sigma) ** progress

    def moments(self) -> tuple[Tensor, Tensor]:
        return gaussian_moments(self.u + self.alpha, self.sigma, self.grid)

    def decide(self) -> Tensor:
        return (self.u + self.alpha.detach()).round_().clamp_(self.grid.qmin, self.grid.qmax)


def gaussian_moments(centre: Tensor, sigma: float, grid: Grid) -> tuple[Tensor, Tensor]:
    """Mean and variance of clip(round(c + sigma * xi)), differentiable in the centre c; sigma in steps."""
    return _GaussianMoments.apply(centre, sigma, grid.qmin, grid.qmax)


class _GaussianMoments(torch.autograd.Function):
    """Sums over the window of thresholds within REACH sigma of c, relative to the level nearest to c.

    With d = q - near, lowest = the window's lower end - near, and j the offset of a threshold near + j + 1/2:
    E[d] = lowest + sum_j Phi(z_j), E[d^2] = lowest^2 + sum_j (2j + 1) Phi(z_j), over the thresholds that exist.
    """

    @staticmethod
    def forward(ctx, centre: Tensor, sigma: float, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
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
        ctx.save_for_backward(slope_first.mul_(norm), slope_second.mul_(norm))
        return near.add_(first), second.addcmul_(first, first, value=-1).clamp_(min=0)

    @staticmethod
    def backward(ctx, grad_mean: Tensor, grad_variance: Tensor) -> tuple[Tensor, None, None, None]:
        slope_mean, slope_variance = ctx.saved_tensors
        return (grad_mean * slope_mean).addcmul_(grad_variance, slope_variance), None, None, None
