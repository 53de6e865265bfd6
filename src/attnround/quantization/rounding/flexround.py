"""FlexRound: every weight is divided by a learned step of its own, and rounded.

Source: Lee, Kim, Kwon, Lee, "FlexRound: Learnable Rounding based on Element-wise Division for Post-Training
Quantization", arXiv 2306.00317.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from attnround.errors import check_number
from attnround.quantization.grid import Grid
from attnround.quantization.rounding.base import Objective, Rounding, RoundingMethod, round_through
from attnround.quantization.shapes import Float


@dataclass(frozen=True)
class FlexRound(RoundingMethod):
    """w' = s1 clip(round(w / (s1 S2 s3 s4))), with s1 the scale, learned too, and S2, s3, s4 starting at one.

    S2 has an entry a weight, s3 one an output channel, s4 one an input channel of a convolution. All are learned as
    logarithms, so that they stay positive; the gradient goes straight through the rounding inside the range.

    decay: Adam's rate falls to 0 as a cosine. At a constant rate, weights keep changing their levels to the end.
    """

    lr: float = 1e-3
    num_steps: int = 2000
    decay: bool = True

    def __post_init__(self) -> None:
        check_number("quantizer.lr", self.lr, above=0)
        check_number("quantizer.num_steps", self.num_steps, least=1, whole=True)

    def start(
        self,
        u: Float[Tensor, " O *rest"],
        grid: Grid,
        objective: Objective,
        generator: Generator,
        zero_point: Float[Tensor, " O *ones"] | float = 0.0,
    ) -> Rounding:
        return _FlexRound(u, grid, zero_point, self.decay)


class _FlexRound(Rounding):
    """All in steps of the scale at the start: w is u - zero_point, and s1 is exp(log_gain)."""

    zero_point: Tensor
    weight: Tensor

    def __init__(
        self, u: Float[Tensor, " O *rest"], grid: Grid, zero_point: Float[Tensor, " O *ones"] | float, decay: bool
    ):
        super().__init__()
        self.grid, self.decay = grid, decay
        self.register_buffer("zero_point", torch.as_tensor(zero_point, dtype=u.dtype, device=u.device).clone())
        self.register_buffer("weight", u - self.zero_point)
        outputs = u[(slice(None), *[slice(1)] * (u.ndim - 1))]
        self.log_gain = nn.Parameter(torch.zeros_like(outputs))
        self.log_weights = nn.Parameter(torch.zeros_like(u))
        self.log_outputs = nn.Parameter(torch.zeros_like(outputs))
        self.log_inputs = nn.Parameter(torch.zeros_like(u[:1, :, :1, :1])) if u.ndim == 4 else None

    def anneal(self, progress: float) -> None:
        self.rate = (1 + math.cos(math.pi * progress)) / 2
        self.before = [each.detach().clone() for each in self.parameters()] if self.decay else []

    @torch.no_grad()
    def after_step(self) -> None:
        for each, before in zip(self.parameters(), self.before, strict=False):
            each.copy_(before.lerp(each, self.rate))

    def moments(self) -> tuple[Float[Tensor, " O *rest"], None]:
        levels = round_through(self._divided(), self.grid)
        return self.log_gain.exp() * (levels - self.zero_point) + self.zero_point, None

    @torch.no_grad()
    def decide(self) -> Float[Tensor, " O *rest"]:
        return self._divided().round_().clamp_(self.grid.qmin, self.grid.qmax)

    def gain(self) -> Float[Tensor, " O"]:
        return self.log_gain.detach().exp().flatten()

    def _divided(self) -> Float[Tensor, " O *rest"]:
        log_step = self.log_gain + self.log_outputs + self.log_weights
        if self.log_inputs is not None:
            log_step = log_step + self.log_inputs
        return self.weight * torch.exp(-log_step) + self.zero_point
