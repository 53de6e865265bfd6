"""Fake quantization with a gradient for the scale: Learned Step Size Quantization, arXiv 1902.08153.

levels = clip(round(x / scale), lowest, highest)        x' = scale * levels

dx'/dx      = 1 inside the range, 0 outside
dx'/dscale  = round(u) - u inside the range, lowest or highest outside, for u = x / scale        (eq. 3 there)
"""

import math
from typing import Any

import torch
from torch import Tensor

from attnround.quantization.grid import per_channel
from attnround.quantization.shapes import Float, Real

LEAST = 1e-2  # of its start: so small a scale gets at most where an optimizer moves it, which keeps it positive


def gradient_scale(num_values: int, qmax: int) -> float:
    """1 / sqrt(num_values * qmax), the factor that balances a scale's gradient with the weights' (section 2.2 there).

    num_values: how many values share the scale.
    """
    return 1 / math.sqrt(max(num_values, 1) * qmax)


class LearnedStep(torch.autograd.Function):
    """x' for a scale [] of all of x with numbers as lowest and highest, or a scale [O] of its slices with tensors [O].

    Input and output are saved for the backward pass, as the layers around save them anyway. With g the gradient of the
    output and grad_x that of the input, the gradient of the scale is (<g, x'> - <grad_x, x>) / scale * factor: the
    formula above as two inner products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "*shape"],
        scale: Float[Tensor, ""] | Float[Tensor, " O"],
        lowest: int | Real[Tensor, " O"],
        highest: int | Real[Tensor, " O"],
        factor: float,
    ) -> Float[Tensor, "*shape"]:
        if scale.ndim:
            scale, lowest, highest = (per_channel(values, x) for values in (scale, lowest, highest))  # type: ignore[arg-type]  # tensors, as the scale is
        quantized = x.div(scale).round_().clamp_(lowest, highest).mul_(scale)  # type: ignore[arg-type]  # both alike
        ctx.levels, ctx.factor = (lowest, highest), factor
        ctx.save_for_backward(x, scale, *([quantized] if ctx.needs_input_grad[1] else []))
        return quantized

    @staticmethod
    def backward(
        ctx: Any, grad: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*scale"] | None, None, None, None]:
        x, scale, *quantized = ctx.saved_tensors
        u, (lowest, highest) = x / scale, ctx.levels
        if scale.ndim:
            grad_x = torch.where((u > lowest) & (u < highest), grad, 0)
        else:
            grad_x = torch.ops.aten.hardtanh_backward(grad, u, lowest, highest)
        if not quantized:
            return grad_x, None, None, None, None
        if scale.ndim:
            product = (grad * quantized[0] - grad_x * x).flatten(1).sum(1)
        else:
            flat_grad, flat_quantized, flat_grad_x, flat_x = in_order_of(x, grad, quantized[0], grad_x, x)
            product = torch.dot(flat_grad, flat_quantized) - torch.dot(flat_grad_x, flat_x)
        return grad_x, product * (ctx.factor / scale.reshape(product.shape)), None, None, None


def in_order_of(x: Float[Tensor, "*shape"], *values: Float[Tensor, "*shape"]) -> list[Float[Tensor, " size"]]:
    """The values as vectors in the order of x in memory: views where they have the same order.

    Of channels_last tensors, `flatten` made copies that took a fifth of a training step of resnet18_slim.
    """
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    return [each.permute(order).reshape(-1) for each in values]
