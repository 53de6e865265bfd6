"""Attention Round: every weight may map to every level, with a probability that falls as a Gaussian of the distance.

Source: Diao, Li, Xu, Hao, "Attention Round for Post-Training Quantization", arXiv 2207.03088. The abstract gives the
idea; the formulae here are this project's reading of it:

    q = clip(round(u + alpha + sigma * xi)), xi ~ N(0, 1), alpha learned, c = u + alpha
    E[q]   = qmin   + sum_k          Phi((c - k - 1/2) / sigma)        k = qmin..qmax-1
    E[q^2] = qmin^2 + sum_k (2k + 1) Phi((c - k - 1/2) / sigma)
"""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from attnround.errors import InputError, check_number
from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import (
    Objective,
    Quadratic,
    Rounding,
    RoundingMethod,
    as_quadratic,
    round_through,
)
from attnround.quantization.rounding.coordinate_descent import polish
from attnround.quantization.rounding.gaussian import GaussianTable, gaussian_moments
from attnround.quantization.rounding.gptq import greedy_levels
from attnround.quantization.rounding.mean_field import MeanField
from attnround.quantization.shapes import Float, UInt8

INITS = ("best", "weight", "gptq")


@dataclass(frozen=True)
class AttentionRound(RoundingMethod):
    """alpha is learned while sigma shrinks until the decision is clear; `estimator` says what the objective is given.

    expected: mean and variance of q. Nothing is drawn, and the gradient is exact. On the layer objective no gradient is
    needed: a step moves every alpha to where the objective is least given all others, see `mean_field`.
    sampled: one draw of q a step, with the gradient of the mean.
    gated: clip(round(c)), with the gradient straight through inside the range. Each of Adam's steps on alpha is scaled
    by the Gaussian's mass ahead: Phi(-|alpha|/sigma) away from the weight, Phi(|alpha|/sigma) back to it.

    init: where the sweeps of `expected` start, at the weights or at GPTQ's levels. A sweep moves each weight by itself,
    and errors that only many weights together can cancel hardly change: where inputs are strongly correlated, GPTQ
    finds levels far from the weights that sweeps from the weights do not. best: at the weights, and where GPTQ's levels
    have the lower objective in the end, at these as well; what has the lowest counts.

    sigma, sigma_end: width of the Gaussian in quantization steps at the start and the end, geometric in between;
    lr: Adam's rate for alpha, in steps, where gradients are taken; polish: coordinate descent from the decision, on the
    layer objective only.
    """

    sigma: float = 0.5
    sigma_end: float = 0.1
    lr: float = 0.05
    num_steps: int = 100
    estimator: str = "expected"
    init: str = "best"
    polish: bool = False

    def __post_init__(self) -> None:
        check_number("quantizer.sigma", self.sigma, above=0)
        check_number("quantizer.sigma_end", self.sigma_end, above=0, most=self.sigma)
        check_number("quantizer.lr", self.lr, above=0)
        check_number("quantizer.num_steps", self.num_steps, least=1, whole=True)
        if self.estimator not in ESTIMATORS:
            raise InputError(f"quantizer.estimator={self.estimator}: give one of {', '.join(ESTIMATORS)}")
        if self.init not in INITS:
            raise InputError(f"quantizer.init={self.init}: give one of {', '.join(INITS)}")
        if self.init == "gptq" and self.estimator != "expected":
            raise InputError(f"quantizer.init=gptq: give estimator=expected; {self.estimator} starts at the weights")

    @property
    def layer_only(self) -> bool:
        return self.polish

    def start(
        self,
        u: Float[Tensor, " O *rest"],
        grid: Grid,
        objective: Objective,
        generator: Generator,
        zero_point: Float[Tensor, " O *ones"] | float = 0.0,
    ) -> Rounding:
        return ESTIMATORS[self.estimator](u, grid, self, objective, generator)


class _AttentionRound(Rounding):
    u: Tensor

    def __init__(
        self,
        u: Float[Tensor, " O *rest"],
        grid: Grid,
        settings: AttentionRound,
        objective: Objective,
        generator: Generator,
    ):
        super().__init__()
        self.grid, self.settings, self.generator = grid, settings, generator
        self.quadratic = as_quadratic(objective) if settings.polish else None
        self.register_buffer("u", u)
        self.alpha = nn.Parameter(torch.zeros_like(u))
        self.sigma = settings.sigma

    def anneal(self, progress: float) -> None:
        self.sigma = self.settings.sigma * (self.settings.sigma_end / self.settings.sigma) ** progress

    def decide(self) -> Float[Tensor, " O *rest"]:
        levels = (self.u + self.alpha.detach()).round_().clamp_(self.grid.qmin, self.grid.qmax)
        return polish(levels, self.grid, self.quadratic) if self.quadratic else levels


class _Expected(_AttentionRound):
    field: MeanField | None = None

    def __init__(
        self,
        u: Float[Tensor, " O *rest"],
        grid: Grid,
        settings: AttentionRound,
        objective: Objective,
        generator: Generator,
    ):
        super().__init__(u, grid, settings, objective, generator)
        self.swept = objective if isinstance(objective, Quadratic) else None
        if settings.init == "gptq" and self.swept is not None:
            self._move_to(self._greedy(self.swept))

    def moments(self) -> tuple[Float[Tensor, " O *rest"], Float[Tensor, " O *rest"]]:
        return gaussian_moments(self.u + self.alpha, self.sigma, self.grid)

    def step(self, objective: Objective, optimizer: torch.optim.Optimizer) -> Float[Tensor, ""]:
        """On a quadratic objective a sweep of the `MeanField`, which needs no optimizer."""
        if not isinstance(objective, Quadratic):
            return super().step(objective, optimizer)
        return self._sweep(objective)

    def _sweep(self, objective: Quadratic) -> Float[Tensor, ""]:
        self.field = self.field or MeanField(objective)
        centre = (self.u + self.alpha.detach()).view(objective.centre.shape)
        loss = self.field.sweep(centre, GaussianTable(self.sigma, self.grid, centre))
        self._move_to(centre.view_as(self.u))
        return loss

    def decide(self) -> Float[Tensor, " O *rest"]:
        levels = super().decide()
        if self.settings.init != "best" or self.swept is None:
            return levels
        greedy = self._greedy(self.swept)
        if self.swept(greedy) >= self.swept(levels):
            return levels
        settings = replace(self.settings, init="weight")
        again = type(self)(self.u, self.grid, settings, self.swept, self.generator)
        again.field = self.field
        again._move_to(greedy)
        for step in range(settings.num_steps):
            again.anneal(step / settings.num_steps)
            again._sweep(self.swept)
        return min(greedy, again.decide(), key=self.swept)

    def _greedy(self, objective: Quadratic) -> Float[Tensor, " O *rest"]:
        return greedy_levels(objective, self.grid).view_as(self.u).to(self.u.dtype)

    def _move_to(self, centre: Float[Tensor, " O *rest"]) -> None:
        self.alpha.data = centre - self.u


class _Sampled(_AttentionRound):
    """The generator's state is part of the rounding's, so that a resumed run draws what an unbroken one draws."""

    def moments(self) -> tuple[Float[Tensor, " O *rest"], None]:
        centre = self.u + self.alpha
        noise = torch.randn(centre.shape, dtype=centre.dtype, device=centre.device, generator=self.generator)
        draw = (centre.detach() + self.sigma * noise).round_().clamp_(self.grid.qmin, self.grid.qmax)
        mean, _ = gaussian_moments(centre, self.sigma, self.grid)
        return draw + (mean - mean.detach()), None

    def get_extra_state(self) -> UInt8[Tensor, " size"]:
        return self.generator.get_state()

    def set_extra_state(self, state: UInt8[Tensor, " size"]) -> None:
        self.generator.set_state(state)


class _Gated(_AttentionRound):
    def anneal(self, progress: float) -> None:
        super().anneal(progress)
        self.before = self.alpha.detach().clone()

    def moments(self) -> tuple[Float[Tensor, " O *rest"], None]:
        return round_through(self.u + self.alpha, self.grid), None

    @torch.no_grad()
    def after_step(self) -> None:
        step = self.alpha - self.before
        ahead = torch.special.ndtr(self.before * -step.sign() / self.sigma)
        self.alpha.copy_(self.before + step * ahead)


ESTIMATORS: dict[str, type[_Expected | _Sampled | _Gated]] = {
    "expected": _Expected,
    "sampled": _Sampled,
    "gated": _Gated,
}
