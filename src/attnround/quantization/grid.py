"""The uniform grid: integer levels qmin..qmax, a scale and a zero point per output channel.

    quantize:    q = clip(round(w / scale + zero_point), qmin, qmax)
    dequantize:  w' = scale * (q - zero_point)

Scales and zero points are [O] for a weight [O, *rest]: one for each slice along axis 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from attnround.errors import InputError
from attnround.quantization.shapes import Float, Real

BIT_WIDTHS = range(2, 9)


@dataclass(frozen=True)
class Grid:
    """The levels of one bit width: -2^(b-1)..2^(b-1)-1 if symmetric (the zero point is 0), else 0..2^b-1.

    >>> Grid(4).qmin, Grid(4).qmax, Grid(4, symmetric=False).qmax
    (-8, 7, 15)
    """

    bit_width: int
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.bit_width not in BIT_WIDTHS:
            raise InputError(f"{self.bit_width} bits are not on offer: a bit width is a whole number from 2 to 8")

    @property
    def qmin(self) -> int:
        return -(2 ** (self.bit_width - 1)) if self.symmetric else 0

    @property
    def qmax(self) -> int:
        return self.qmin + 2**self.bit_width - 1

    @property
    def dtype(self) -> torch.dtype:
        """The integer type that holds a level."""
        return torch.int8 if self.symmetric else torch.uint8


def per_channel(values: Real[Tensor, " O"], weight: Real[Tensor, " O *rest"]) -> Real[Tensor, " O *ones"]:
    """[O] -> [O, 1, ..., 1] with as many axes as `weight`."""
    return values.reshape(-1, *[1] * (weight.ndim - 1))


def steps(
    weight: Float[Tensor, " O *rest"], scale: Float[Tensor, " O"], zero_point: Float[Tensor, " O"]
) -> Float[Tensor, " O *rest"]:
    """u = w / scale + zero_point: the weight in quantization steps, where the levels are the integers."""
    return weight / per_channel(scale, weight) + per_channel(zero_point, weight)


def quantize(
    weight: Float[Tensor, " O *rest"], scale: Float[Tensor, " O"], zero_point: Float[Tensor, " O"], grid: Grid
) -> Float[Tensor, " O *rest"]:
    """The nearest levels, as floats."""
    return steps(weight, scale, zero_point).round_().clamp_(grid.qmin, grid.qmax)


def dequantize(
    levels: Real[Tensor, " O *rest"], scale: Float[Tensor, " O"], zero_point: Float[Tensor, " O"]
) -> Float[Tensor, " O *rest"]:
    """The weight that the levels stand for."""
    return (levels.to(scale.dtype) - per_channel(zero_point, levels)) * per_channel(scale, levels)


def fake_quantize(
    weight: Float[Tensor, " O *rest"], scale: Float[Tensor, " O"], zero_point: Float[Tensor, " O"], grid: Grid
) -> Float[Tensor, " O *rest"]:
    """The nearest weight on the grid: dequantize(quantize(w))."""
    return dequantize(quantize(weight, scale, zero_point, grid), scale, zero_point)
