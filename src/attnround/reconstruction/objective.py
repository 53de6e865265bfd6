"""The layer objective: the error of a layer's output, from second moments alone.

For a weight Q on the quantized inputs x' = x + d against the float W on the float inputs x, all centred (the bias takes
up the means), with H = E[x' x'^T] and D = E[d x'^T]:

    E|Q x' - W x|^2 = tr((Q - W) H (Q - W)^T) + 2 tr(W D (Q - W)^T) + E|W d|^2

A ridge r |Q - W|^2 keeps Q near W where the images say little; r is a fraction of H's mean diagonal. Completed to a
square, it is tr((Q - W*) (H + r I) (Q - W*)^T) + floor with the best real-valued weight W* = W - W D (H + r I)^-1. For
levels with means E[q] and variances Var[q], Q = s (E[q] - z) and the expected error has sum s^2 Var[q_ij] H_jj more.
One matrix product a step serves the value and the gradient; its cost does not depend on the number of images.

In the network's metric G = F^T F, what counts is |F y|^2 of an output error y: rows are coupled, and the objective is

    tr(G (Q - W*) (H + r I) (Q - W*)^T),    the variances add sum s_i^2 G_ii Var[q_ij] H_jj

W* is the same, as G is the same for all inputs. One more product, [o, o] with [o, n], is all that it takes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnround.calibration.moments import Moments
from attnround.quantization.rounding.base import Quadratic, slope

ROUNDING = 1e-5  # the fraction of the inputs' energy by which rounding errors may push H's eigenvalues below zero
TINY = 1e-30  # keeps H invertible where the inputs are zero


@dataclass(frozen=True)
class Target:
    """What levels are to stand for: the best real-valued rows W* [G, o, n], and how errors of them count.

    second: H with the ridge of the rounding [G, n, n]; floor: the energy that W* leaves. Float64.
    """

    rows: Tensor
    second: Tensor
    floor: float


def best_target(weight: Tensor, moments: Moments, ridge: float, rounding_ridge: float) -> Target:
    """For float rows [G, o, n]; ridges: fractions of the inputs' mean second moment, for W* and for errors of it."""
    offset = solved_pull(moments, torch.linalg.cholesky(with_ridge(moments, ridge)))
    floor = moments.carried - (moments.pull * offset).sum().item()
    if moments.factor is not None:
        offset = torch.linalg.solve_triangular(moments.factor, offset, upper=True)
    return Target(weight.double() - offset, with_ridge(moments, rounding_ridge), floor)


def solved_pull(moments: Moments, factor: Tensor) -> Tensor:
    """pull (H + r I)^-1 [G, o, n], by the lower Cholesky factor of the latter: W - W*, in the metric."""
    return torch.cholesky_solve(moments.pull.mT, factor).mT


class LayerObjective:
    """Expected output error of a layer in percent of its float output's energy (variance, summed over channels).

    scale, zero_point: [O]. It is a `Quadratic`: second [G, n, n], centre [G, o, n], gain [G, o, 1] and, where the
    moments have a metric, coupling [G, o, o] are for methods with a closed form.
    """

    def __init__(self, target: Target, moments: Moments, scale: Tensor, zero_point: Tensor):
        groups, rows, _ = target.rows.shape
        dtype = scale.dtype
        self.unit = 100 / moments.signal if moments.signal > 0 else 100.0  # a layer of zeros puts out nothing
        self.floor = self.unit * target.floor
        scale = scale.double().reshape(groups, rows, 1)
        gain, coupling = self.unit * scale.square(), None
        if moments.factor is not None:
            metric = moments.factor.mT @ moments.factor
            gain = gain * metric.diagonal(dim1=1, dim2=2)[:, :, None]
            coupling = self.unit * scale * metric * scale.mT
        self.zero_point = zero_point.to(dtype).reshape(groups, rows, 1)
        self.centre = (target.rows / scale).to(dtype) + self.zero_point
        self.second = target.second.to(dtype)
        self.gain = gain.to(dtype).contiguous()
        self.coupling = None if coupling is None else coupling.to(dtype)
        self.diagonal = target.second.diagonal(dim1=1, dim2=2)[:, None, :].to(dtype)

    def __call__(self, mean: Tensor, variance: Tensor | None = None) -> Tensor:
        """The error above its floor, for levels [O, *rest]; differentiable in both arguments."""
        error = _Quadratic.apply(mean.reshape(self.centre.shape) - self.centre, self)
        if variance is None:
            return error
        return error + (variance.reshape(self.centre.shape) * self.gain * self.diagonal).sum()

    def best_factor(self, levels: Tensor) -> Tensor:
        """The factor [O] on the scale that minimises the error of levels [O, *rest]; 1 where it would not be positive.

        With a = q - z and b = centre - z it is a H b^T / a H a^T, row by row; coupled rows are solved for together.
        """
        a, b = levels.reshape(self.centre.shape) - self.zero_point, self.centre - self.zero_point
        product = a @ self.second
        if self.coupling is None:
            factor = (product * b).sum(2) / (product * a).sum(2)
        else:
            wanted = (self.coupling * (product @ b.mT)).sum(2)
            matrix = (self.coupling * (product @ a.mT)).double()
            # On the CPU, whose solver takes a matrix that is singular, as where a channel has but zeros.
            factor = torch.linalg.lstsq(matrix.cpu(), wanted.double().cpu()[:, :, None]).solution[:, :, 0].to(wanted)
        return torch.where((factor > 0) & factor.isfinite(), factor, 1.0).flatten()


def with_ridge(moments: Moments, ridge: float) -> Tensor:
    """H and this fraction of its mean diagonal, at least what rounding errors take from it."""
    diagonal = moments.second.diagonal(dim1=1, dim2=2)
    noise = ROUNDING * (diagonal + moments.mean_quantized.square()).mean(1, keepdim=True)
    added = torch.maximum(ridge * diagonal.mean(1, keepdim=True), noise).clamp(min=TINY)
    second = moments.second.clone()
    second.diagonal(dim1=1, dim2=2).add_(added)
    return second


class _Quadratic(torch.autograd.Function):
    """The quadratic form of rows of errors e [G, o, n]: `slope` of them is the gradient too, up to a factor of 2."""

    @staticmethod
    def forward(ctx: Any, error: Tensor, objective: Quadratic) -> Tensor:
        product = slope(objective, error)
        ctx.save_for_backward(product)
        return (product * error).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (product,) = ctx.saved_tensors
        return 2 * grad * product, None


def corrected_bias(bias: Tensor, weight: Tensor, quantized: Tensor, moments: Moments) -> Tensor:
    """The bias [O] that gives the quantized rows the float layer's mean output; rows [G, o, n].

    What is added to the output has its mean drift made up for too.
    """
    shift = weight.double() @ moments.mean[:, :, None] - quantized.double() @ moments.mean_quantized[:, :, None]
    return (bias.double() + (shift[:, :, 0] - moments.mean_residual).flatten()).to(bias.dtype)


def output_error(weight: Tensor, quantized: Tensor, moments: Moments) -> float:
    """The error of the quantized rows' output against the float rows', in percent of its energy; rows [G, o, n].

    In the moments' metric, with what is added to the output. Mean outputs do not count: `corrected_bias` makes them
    equal.
    """
    difference = quantized.double() - weight.double()
    if moments.factor is not None:
        difference = moments.factor @ difference
    product = difference @ moments.second + 2 * moments.pull
    error = (product * difference).sum().item() + moments.carried
    return 100 * error / moments.signal if moments.signal > 0 else 100 * error
