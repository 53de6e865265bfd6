"""Fold batch norms into the convolutions or linear layers before them, exactly.

    w' = w * gamma / sqrt(var + eps)        b' = beta + (b - mean) * gamma / sqrt(var + eps)

A batch norm folds where it is all that the layer feeds; others stay float.
"""

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnround.graph.capture import Captured
from attnround.graph.trace import QUANTIZABLE, calls


@torch.no_grad()
def fold_batch_norms(model: Captured) -> tuple[list[str], list[str]]:
    """Fold in place; return the names of the batch norms that were folded, and of those that stay."""
    folded, left = [], []
    for node in calls(model.graph, model, (_BatchNorm,)):
        layer = _feeding_layer(node, model) if _runs_once(node) else None
        norm = model.get_submodule(node.target)
        if layer is None or norm.running_var is None:
            left.append(node.target)
            continue
        _scale_layer(layer, norm)
        model.set_submodule(node.target, nn.Identity())
        folded.append(node.target)
    return folded, left


def normed_layers(model: Captured) -> list[str]:
    """Names of the layers that `fold_batch_norms` would fold a batch norm into."""
    nodes = [node for node in calls(model.graph, model, (_BatchNorm,)) if _runs_once(node)]
    return [node.all_input_nodes[0].target for node in nodes if _feeding_layer(node, model) is not None]


def _feeding_layer(node: fx.Node, model: nn.Module) -> nn.Module | None:
    (feeder,) = node.all_input_nodes
    if feeder.op != "call_module" or len(feeder.users) > 1 or not _runs_once(feeder):
        return None
    layer = model.get_submodule(feeder.target)
    return layer if type(layer) in QUANTIZABLE else None


def _runs_once(node: fx.Node) -> bool:
    return sum(other.target == node.target for other in node.graph.nodes) == 1


def _scale_layer(layer: nn.Module, norm: _BatchNorm) -> None:
    weight = layer.weight.double()
    gamma = norm.weight.double() if norm.affine else torch.ones_like(norm.running_var, dtype=torch.double)
    beta = norm.bias.double() if norm.affine else torch.zeros_like(gamma)
    bias = layer.bias.double() if layer.bias is not None else torch.zeros_like(gamma)
    factor = gamma / torch.sqrt(norm.running_var.double() + norm.eps)
    layer.weight.copy_(weight * factor.reshape(-1, *[1] * (weight.ndim - 1)))
    layer.bias = nn.Parameter((beta + (bias - norm.running_mean.double()) * factor).to(layer.weight.dtype))
