"""Batch norms behind the trained layers, while these are trained.

What is quantized is a weight with its batch norm folded in. For the training the norm is taken out again: the weight
and its steps get the size that they had before, and a new batch norm is put behind the layer, with the mean and the
variance of the layer's output, and with a shift and a gain that undo them. The model starts where it was (or, without
PTQ before, with the means and variances that the float model has), and from there it is trained with the statistics of
its batches, as the float model was. In the end the batch norm goes into the layer's steps and bias. That is exact and
touches no integer, as every output channel has a step of its own.

The size matters: a weight k times as large has a gradient k times as small, and so moves k^2 times less for its size.
In mobilenetv2_050 folding makes the depthwise weights 5 to 10 times as large.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnround.errors import InputError
from attnround.graph import FoldedNorm
from attnround.graph.kinds import kind_of
from attnround.qat.layer import TrainedLayer

STATISTICS_BATCH = 128  # images that a batch norm sees at a time, at most, when its statistics are estimated


@torch.no_grad()
def insert_norms(model: nn.Module, reference: nn.Module, norms: Mapping[str, FoldedNorm], images: Tensor) -> None:
    """Put batch norms behind the model's layers of these names.

    reference: whose outputs have the mean and the variance that the norms give: the model itself, which then starts
    where it was, or the float one; norms: layer name -> what was folded into it; images: [N, C, H, W] for the
    statistics.
    """
    for name, (mean, variance) in statistics(reference, list(norms), images).items():
        layer = model.get_submodule(name)
        factor = gain(layer.weight, norms[name].weight.to(layer.weight.device))
        norm = norm_behind(layer, norms[name].momentum)
        norm.eps = norms[name].eps
        norm.running_mean.copy_(mean / factor)
        norm.running_var.copy_(variance / factor**2)
        norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps) * factor)
        norm.bias.copy_(mean)
        layer.shrink(factor)
        layer.norm = norm
    if reference is not model:
        estimate_norms(model, images)


def statistics(model: nn.Module, names: Sequence[str], images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance [O] of the outputs of these layers."""
    layers = [model.get_submodule(name) for name in names]
    norms = [norm_behind(layer, None) for layer in layers]
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output, norm=norm: observe(norm, output))
        for layer, norm in zip(layers, norms, strict=True)
    ]
    model.eval()
    try:
        _run_evenly(model, images)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: (norm.running_mean, norm.running_var)  # type: ignore[misc]  # a new norm has both
        for name, norm in zip(names, norms, strict=True)
    }


def _run_evenly(model: nn.Module, images: Tensor) -> None:
    """Run a model on images in batches of one size, whose statistics count alike, and so none of a single image.

    Raises InputError where there is but one image, and a norm has no other value to tell a variance from.
    """
    try:
        for batch in images.tensor_split(-(-len(images) // STATISTICS_BATCH)):
            model(batch)
    except ValueError as error:
        if len(images) > 1:
            raise
        raise InputError("batch norms take no statistics from one image: give more to calibrate on") from error


def norm_behind(layer: nn.Module, momentum: float | None) -> _BatchNorm:
    """A new batch norm over the output of a trained or a float layer, where that is."""
    inner = layer.quantized.layer if isinstance(layer, TrainedLayer) else layer
    return kind_of(inner).norm(len(layer.weight), momentum).to(layer.weight.device)


def gain(folded: Tensor, unfolded: Tensor) -> Tensor:
    """How many times as large [O] a weight [O, *rest] became by folding, 1 where that cannot be said."""
    ratio = folded.flatten(1).norm(dim=1) / unfolded.flatten(1).norm(dim=1)
    return torch.where(ratio.isfinite() & (ratio > 0), ratio, 1)


def observe(norm: _BatchNorm, output: Tensor) -> None:
    """Let the norm see the output, which stays as it is: a hook that returns None."""
    norm(output)


@torch.no_grad()
def estimate_norms(model: nn.Module, images: Tensor) -> None:
    """Replace the running statistics of the layers' batch norms by those of images [N, C, H, W], means over batches."""
    model.eval()
    norms = [layer.norm for layer in model.modules() if isinstance(layer, TrainedLayer) and layer.norm is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    if norms:
        _run_evenly(model, images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
