"""The quantizer of a layer's input: one scale and one zero point for the whole tensor, fixed after calibration.

    codes = clip(round(x / scale) + zero_point, 0, 2^b - 1)        x' = scale * (codes - zero_point)

The zero point is a code, so that zero, which convolutions pad with, has no error. It is 0 where no input is negative.
"""

import torch
from torch import Tensor, nn

from attnround.quantization.grid import Grid
from attnround.quantization.lsq import LearnedStep, gradient_scale
from attnround.quantization.shapes import Float, Float32, Int, UInt8


class ActivationQuantizer(nn.Module):
    """x' for an input x of any shape, with the straight-through gradient inside the range.

    learned: the scale has LSQ's gradient (arXiv 1902.08153), else none; scale_gradient: that gradient is multiplied by
    1 / sqrt(features * (2^b - 1)), with features the number of values of one image.

    drop: the probability that a value stays float while `dropping` is set (QDrop, arXiv 2203.05740), which only the
    block objective's steps do. Draws come from the global generator of the input's device.

    The zero point is a Python integer, so that clipping need not read it from the device; state_dict holds it as extra
    state.
    """

    def __init__(
        self,
        scale: float,
        zero_point: int,
        bit_width: int,
        *,
        learned: bool = False,
        scale_gradient: bool = True,
        drop: float = 0.0,
    ):
        super().__init__()
        self.grid = Grid(bit_width, symmetric=False)
        self.scale = nn.Parameter(torch.tensor(float(scale), dtype=torch.float32), requires_grad=learned)
        self.zero_point = zero_point
        self.scale_gradient = scale_gradient
        self.drop = drop
        self.dropping = False

    @property
    def bit_width(self) -> int:
        return self.grid.bit_width

    @property
    def learned(self) -> bool:
        return self.scale.requires_grad

    @property
    def signed(self) -> bool:
        """Whether a negative value has a code."""
        return self.zero_point > 0

    @property
    def levels(self) -> tuple[int, int]:
        """Lowest and highest value of round(x / scale) after clipping."""
        return self.grid.qmin - self.zero_point, self.grid.qmax - self.zero_point

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """x' in the type of x, computed in float32."""
        factor = gradient_scale(x[:1].numel(), self.grid.qmax) if self.scale_gradient else 1.0
        quantized = LearnedStep.apply(x.float(), self.scale, *self.levels, factor).to(x.dtype)
        if self.dropping and self.drop > 0:
            stays_float = torch.rand_like(x).lt_(self.drop)
            return torch.lerp(quantized, x, stays_float)  # exact at 0 and 1, several times faster than `where`
        return quantized

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
        """The codes of x, a quarter of its memory."""
        lowest, highest = self.levels
        return x.float().div(self.scale).round_().clamp_(lowest, highest).sub_(lowest).to(torch.uint8)

    @torch.no_grad()
    def decode(self, codes: UInt8[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
        """The values that codes stand for: decode(codes(x)) equals forward(x) without dropping."""
        return codes.to(self.scale.dtype).add_(self.levels[0]).mul_(self.scale)

    def get_extra_state(self) -> Int[Tensor, ""]:
        return torch.tensor(self.zero_point)

    def set_extra_state(self, state: Int[Tensor, ""]) -> None:
        self.zero_point = int(state)

    def extra_repr(self) -> str:
        return f"bit_width={self.bit_width}, signed={self.signed}, learned={self.learned}, drop={self.drop}"
