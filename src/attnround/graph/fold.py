"""Fold batch norms into the convolutions or linear layers before them, exactly.

    w' = w * gamma / sqrt(var + eps)        b' = beta + (b - mean) * gamma / sqrt(var + eps)

A batch norm folds where it is all that the layer feeds; others stay float.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnround.graph.capture import Captured
from attnround.graph.kinds import QUANTIZABLE
from attnround.graph.trace import calls, only_user, runs_once


@torch.no_grad()
def fold_batch_norms(model: Captured) -> tuple[list[str], list[str]]:
    """Fold in place; return the names of the batch norms that were folded, and of those that stay."""
    folded, left = [], []
    for node in calls(model.graph, model, (_BatchNorm,)):
        feeder = _feeder(node, model) if runs_once(node) else None
        norm = model.get_submodule(node.target)
        if feeder is None or norm.running_var is None:
            left.append(node.target)
            continue
        _scale_layer(model.get_submodule(feeder.target), norm)
        model.set_submodule(node.target, nn.Identity())
        folded.append(node.target)
    return folded, left


@dataclass(frozen=True)
class FoldedNorm:
    """What a layer had before a batch norm was folded into it: its weight [O, *rest]; eps and momentum of the norm.

    mean, deviation: [O], of the norm's output where its statistics are right, beta and |gamma|.
    """

    weight: Tensor
    eps: float
    momentum: float | None
    mean: Tensor
    deviation: Tensor


def norms_to_fold(model: Captured) -> dict[str, FoldedNorm]:
    """Layer name -> the batch norm that `fold_batch_norms` will fold into it, in execution order."""
    found = {}
    for node in calls(model.graph, model, (_BatchNorm,)):
        norm, feeder = model.get_submodule(node.target), _feeder(node, model) if runs_once(node) else None
        if feeder is not None and norm.running_var is not None:
            weight = model.get_submodule(feeder.target).weight.detach().clone()
            gamma, beta = (each.to(weight.dtype) for each in _affine(norm))
            found[feeder.target] = FoldedNorm(weight, norm.eps, norm.momentum, beta, gamma.abs())
    return found


def _feeder(norm: fx.Node, model: nn.Module) -> fx.Node | None:
    """The call of the layer whose output is all that a norm sees, its tokens [N, T, C] perhaps as rows [N*T, C]."""
    node, is_rows = norm.args[0], len(norm.meta["shape"]) == 2
    while is_rows and node.target == "reshape" and only_user(node) is not None:
        before = node.args[0]
        if before.meta.get("shape", (None,))[-1] != node.meta["shape"][-1]:
            return None
        node = before
    if node.op != "call_module" or only_user(node) is None or not runs_once(node):
        return None
    layer = model.get_submodule(node.target)
    direct = node is norm.args[0]
    fits = is_rows if isinstance(layer, nn.Linear) else direct  # a norm of [N, T, C] is over T
    return node if fits and type(layer) in QUANTIZABLE else None


def _scale_layer(layer: nn.Module, norm: _BatchNorm) -> None:
    weight = layer.weight.double()
    gamma, beta = _affine(norm)
    bias = layer.bias.double() if layer.bias is not None else torch.zeros_like(gamma)
    factor = gamma / torch.sqrt(norm.running_var.double() + norm.eps)
    layer.weight.copy_(weight * factor.reshape(-1, *[1] * (weight.ndim - 1)))
    layer.bias = nn.Parameter((beta + (bias - norm.running_mean.double()) * factor).to(layer.weight.dtype))


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Gamma and beta [O] of a batch norm, in float64."""
    if norm.affine:
        return norm.weight.detach().double(), norm.bias.detach().double()
    ones = torch.ones_like(norm.running_var, dtype=torch.double)
    return ones, torch.zeros_like(ones)
