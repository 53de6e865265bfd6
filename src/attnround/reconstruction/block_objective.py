"""The block objective's parts: the error of a unit's output, and what variances of its weights add to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnround.calibration.cache import batches
from attnround.reconstruction.unit_data import UnitData


class BlockObjective:
    """Loss of the unit's output against the target, in percent of the target's variance.

    unit: what a squared output error of 1, summed over channels and averaged over images and positions, adds to it.
    """

    def __init__(self, data: UnitData, batch_size: int):
        self.factor, self.channel_dim = data.factor, data.channel_dim
        count = 0
        total: Tensor | float = 0.0
        square: Tensor | float = 0.0
        for images in batches(0, data.num_learned, batch_size):
            batch = data.targets[images].double()
            count, total, square = count + batch.numel(), total + batch.sum(), square + batch.square().sum()
        variance = float(square / count - (total / count) ** 2)
        self.percent = 100 / variance if variance > 0 else 100.0  # a unit that puts out a constant
        self.unit = self.percent / data.targets.data.shape[data.channel_dim]

    def __call__(self, output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        error = self.weighed(output.float() - target, None).square()
        return (error if weight is None else error * weight).mean() * self.percent

    def weighed(self, values: Tensor, weight: Tensor | None) -> Tensor:
        """Values of the output as their squares enter the loss."""
        if weight is not None:
            return values * weight.sqrt()
        if self.factor is None:
            return values
        if self.channel_dim == 1:
            return (self.factor @ values.flatten(2)).view_as(values) if values.ndim > 2 else values @ self.factor.mT
        return (values.movedim(self.channel_dim, -1) @ self.factor.mT).movedim(-1, self.channel_dim)


@dataclass(frozen=True)
class LayerError:
    """The unit's loss for the levels of one layer, the others as they are: the objective a rounding is started with."""

    loss_with: Callable[[Tensor], Tensor]
    unit: float

    @torch.no_grad()
    def __call__(self, mean: Tensor, variance: Tensor | None = None) -> Tensor:
        return self.loss_with(mean)


@torch.enable_grad()
def curvature(
    forward: Callable[[dict[str, Tensor], Tensor], Tensor],
    weights: dict[str, Tensor],
    draws: Sequence[tuple[Tensor, Tensor | None]],
    generator: torch.Generator,
    weighed: Callable[[Tensor, Tensor | None], Tensor],
) -> dict[str, Tensor]:
    """c = E |df/dw|^2 of every weight [O, *rest], a mean over the outputs: the diagonal of the Gauss-Newton matrix.

    forward: (weights, x) -> f; draws: inputs x with the weights of their squared errors, None for all alike; weighed:
    (output, those weights) -> f, whose squares are the loss. For random signs v, E[(d(v f)/dw)^2] is the sum of
    (df_k/dw)^2 over outputs k. A few draws are too noisy weight by weight, so c is taken as the product of its row
    means and column means: the sensitivity to an output times the inputs' energy.
    """
    totals, count = {key: torch.zeros_like(weight) for key, weight in weights.items()}, 0
    for x, importance in draws:
        leaves = {key: weight.detach().clone().requires_grad_() for key, weight in weights.items()}
        output = forward(leaves, x).float()
        signs = torch.empty_like(output).bernoulli_(generator=generator).mul_(2).sub_(1)
        projected = (weighed(output, importance) * signs).sum()
        for total, gradient in zip(totals.values(), torch.autograd.grad(projected, list(leaves.values())), strict=True):
            total += gradient.square()
        count += output.numel()
    return {key: _product(total) / count for key, total in totals.items()}


def _product(values: Tensor) -> Tensor:
    """[O, *rest] as the product of its row means and column means."""
    flat = values.flatten(1)
    product = flat.mean(1, keepdim=True) * flat.mean(0, keepdim=True) / flat.mean().clamp(min=1e-30)
    return product.reshape(values.shape)
