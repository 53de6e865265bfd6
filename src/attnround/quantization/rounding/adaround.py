"""AdaRound: every weight learns whether to go up or down.

Source: Nagel, Amjad, van Baalen, Louizos, Blankevoort, "Up or Down? Adaptive Rounding for Post-Training Quantization",
arXiv 2004.10568.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from attnround.errors import check_number
from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import Objective, Rounding, RoundingMethod
from attnround.quantization.shapes import Float

ZETA, GAMMA = 1.1, -0.1  # stretch of the sigmoid, arXiv 2004.10568 eq. 23
EDGE = 1e-3  # keeps the start of V finite where a weight lies on a level


@dataclass(frozen=True)
class AdaRound(RoundingMethod):
    """q = clip(floor(u) + h(V)), h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1), started so that h = frac(u).

    The regulariser lambda * R(1 - |2h - 1|^beta) drives h to 0 or 1: it begins after `warmup` of the steps, while beta
    falls from beta_start to beta_end. With `relative`, R is the mean over the weights and `regularization` is lambda in
    units of the error of rounding to nearest, so that one value serves every layer. Without, as the authors have it, R
    is the sum, and lambda is in units of the squared output error, summed over channels and averaged over images and
    positions.
    """

    lr: float = 0.01
    num_steps: int = 2000
    regularization: float = 10.0
    beta_start: float = 20.0
    beta_end: float = 2.0
    warmup: float = 0.2
    relative: bool = True

    def __post_init__(self) -> None:
        check_number("quantizer.lr", self.lr, above=0)
        check_number("quantizer.num_steps", self.num_steps, least=1, whole=True)
        check_number("quantizer.regularization", self.regularization, least=0)
        check_number("quantizer.beta_start", self.beta_start, above=0)
        check_number("quantizer.beta_end", self.beta_end, above=0)
        check_number("quantizer.warmup", self.warmup, least=0, most=0.9)

    def start(
        self,
        u: Float[Tensor, " O *rest"],
        grid: Grid,
        objective: Objective,
        generator: Generator,
        zero_point: Float[Tensor, " O *ones"] | float = 0.0,
    ) -> Rounding:
        if not self.relative:
            return _AdaRound(u, grid, self, self.regularization * objective.unit)
        nearest = u.round().clamp(grid.qmin, grid.qmax)
        return _AdaRound(u, grid, self, self.regularization * float(objective(nearest)) / u.numel())


class _AdaRound(Rounding):
    """strength: what an undecided weight adds to the objective."""

    floor: Tensor
    free: Tensor

    def __init__(self, u: Float[Tensor, " O *rest"], grid: Grid, settings: AdaRound, strength: float):
        super().__init__()
        self.settings = settings
        self.strength = strength
        floor = u.floor()
        self.register_buffer("floor", floor.clamp(grid.qmin, grid.qmax))
        self.register_buffer("free", ((floor >= grid.qmin) & (floor < grid.qmax)).to(u))  # both neighbours exist
        fraction = (u - floor).clamp(EDGE, 1 - EDGE)
        self.v = nn.Parameter(torch.logit((fraction - GAMMA) / (ZETA - GAMMA)))
        self.beta: float | None = None

    def anneal(self, progress: float) -> None:
        settings = self.settings
        done = (progress - settings.warmup) / (1 - settings.warmup)
        self.beta = settings.beta_end + (settings.beta_start - settings.beta_end) * (1 - done) if done >= 0 else None

    def moments(self) -> tuple[Float[Tensor, " O *rest"], None]:
        self.up = _Up.apply(self.v)
        return torch.addcmul(self.floor, self.free, self.up), None

    def penalty(self) -> Float[Tensor, ""] | float:
        """For h(V) as `moments` last computed it."""
        return self.strength * _Undecided.apply(self.up, self.beta) if self.beta is not None else 0.0

    def decide(self) -> Float[Tensor, " O *rest"]:
        return torch.addcmul(self.floor, self.free, (self.v >= 0).to(self.floor))


class _Up(torch.autograd.Function):
    """h(V); the forward pass also finds its slope."""

    @staticmethod
    def forward(ctx: Any, v: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        chance = torch.sigmoid(v)
        up = (chance * (ZETA - GAMMA)).add_(GAMMA)
        slope = chance.mul_(1 - chance).mul_(ZETA - GAMMA).mul_((up > 0) & (up < 1))
        ctx.save_for_backward(slope)
        return up.clamp_(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return grad * ctx.saved_tensors[0]


class _Undecided(torch.autograd.Function):
    """sum (1 - |2h - 1|^beta); the value and the slope share one power."""

    @staticmethod
    def forward(ctx: Any, up: Float[Tensor, "*shape"], beta: float) -> Float[Tensor, ""]:
        side = (2 * up).sub_(1)
        distance = side.abs()
        power = distance.pow(beta - 1)
        total = up.numel() - (power.flatten() @ distance.flatten())
        ctx.save_for_backward(power.mul_(side.sign_()).mul_(-2 * beta))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, ""]) -> tuple[Float[Tensor, "*shape"], None]:
        return grad * ctx.saved_tensors[0], None
