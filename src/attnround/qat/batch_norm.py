"""Batch norms behind the trained layers, while these are trained.

What is quantized is a weight with its batch norm folded in. For the training, a new batch norm is put behind the layer,
with the mean and the variance of the layer's output, and with a shift and a gain that undo them: the model starts where
it was, and from there it is trained with the statistics of its batches, as the float model was. In the end the batch
norm goes into the layer's steps and bias. That is exact and touches no integer, as every output channel has a step of
its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attnround.qat.layer import TrainedLayer


@torch.no_grad()
def insert_norms(model: nn.Module, layers: Sequence[TrainedLayer], images: Sequence[Tensor]) -> None:
    """Put batch norms behind these convolutions of the model. images: batches [N, C, H, W] for the statistics."""
    norms = [nn.BatchNorm2d(len(layer.weight), momentum=None, device=layer.weight.device) for layer in layers]
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output, norm=norm: observe(norm, output))
        for layer, norm in zip(layers, norms, strict=True)
    ]
    model.eval()
    for batch in images:
        model(batch)
    for layer, norm, hook in zip(layers, norms, hooks, strict=True):
        hook.remove()
        norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
        norm.bias.copy_(norm.running_mean)
        norm.momentum = 0.1
        layer.norm = norm


def observe(norm: nn.BatchNorm2d, output: Tensor) -> None:
    """Let the norm see the output, which stays as it is: a hook that returns None."""
    norm(output)


@torch.no_grad()
def estimate_norms(model: nn.Module, images: Sequence[Tensor]) -> None:
    """Replace the running statistics of the layers' batch norms by the means over these batches [N, C, H, W]."""
    model.eval()
    norms = [layer.norm for layer in model.modules() if isinstance(layer, TrainedLayer) and layer.norm is not None]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for batch in images if norms else ():
        model(batch)
    model.eval()
