"""AdaRound: every weight learns whether to go up or down.

Source: Nagel, Amjad, van Baalen, Louizos, Blankevoort, "Up or Down? Adaptive Rounding for Post-Training Quantization",
arXiv 2004.10568.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnround.errors import check_number
from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import Objective, Quantizer, Rounding

ZETA, GAMMA = 1.1, -0.1  # stretch of the sigmoid, arXiv 2004.10568 eq. 23
EDGE = 1e-3  # keeps the start of V finite where a weight lies on a level


@dataclass(frozen=True)
class AdaRound(Quantizer):
    """q = clip(floor(u) + h(V)), h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1), started so that h = frac(u).

    The regulariser lambda * mean(1 - |2h - 1|^beta) drives h to 0 or 1: it begins after `warmup` of the steps, while
    beta falls from beta_start to beta_end. `regularization` is lambda in units of nearest's error, so that one value
    serves every layer.
    """

    lr: float = 0.01
    num_steps: int = 2000
    regularization: float = 10.0
    beta_start: float = 20.0
    beta_end: float = 2.0
    warmup: float = 0.2

    def __post_init__(self) -> None:
        check_number("quantizer.lr", self.lr, above=0)
        check_number("quantizer.num_steps", self.num_steps, least=1, whole=True)
        check_number("quantizer.regularization", self.regularization, least=0)
        check_number("quantizer.beta_start", self.beta_start, above=0)
        check_number("quantizer.beta_end", self.beta_end, above=0)
        check_number("quantizer.warmup", self.warmup, least=0, most=0.9)

    def start(self, u: Tensor, grid: Grid, objective: Objective) -> Rounding:
        nearest = u.round().clamp(grid.qmin, grid.qmax)
        return _AdaRound(u, grid, self, float(objective(nearest, None)))


class _AdaRound(Rounding):
    def __init__(self, u: Tensor, grid: Grid, settings: AdaRound, nearest_error: float):
        super().__init__()
        self.grid = grid
        self.settings = settings
        self.strength = settings.regularization * nearest_error
        self.register_buffer("floor", u.floor())
        fraction = (u - self.floor).clamp(EDGE, 1 - EDGE)
        self.v = nn.Parameter(torch.logit((fraction - GAMMA) / (ZETA - GAMMA)))
        self.beta: float | None = None

    def anneal(self, progress: float) -> None:
        settings = self.settings
        done = (progress - settings.warmup) / (1 - settings.warmup)
        self.beta = settings.beta_end + (settings.beta_start - settings.beta_end) * (1 - done) if done >= 0 else None

    def moments(self) -> tuple[Tensor, None]:
        return (self.floor + self._up()).clamp(self.grid.qmin, self.grid.qmax), None

    def penalty(self) -> Tensor | float:
        if self.beta is None:
            return 0.0
        return self.strength * (1 - (2 * self._up() - 1).abs().pow(self.beta)).mean()

    def decide(self) -> Tensor:
        return (self.floor + (self.v >= 0)).clamp(self.grid.qmin, self.grid.qmax)

    def _up(self) -> Tensor:
        return (torch.sigmoid(self.v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
