"""Reparametrise LayerNorms: their outputs' channels get one range, and the linear layers behind make up for it.

Of a norm's output x and a linear layer y = W x + b behind it, channel i can be shifted by t_i and divided by r_i:

    gamma' = gamma / r      beta' = (beta + t) / r      W'_:i = W_:i r_i      b' = b - W t

The outputs stay. With lowest and highest value l_i and h_i of a channel over the images and its width w_i = h_i - l_i,
the choice r_i = w_i / m and t_i = -l_i - r_i f m gives all channels the range from -f m to (1 - f) m. There m is the
mean width, and f the mean part of a range that lies below zero, from none to all of it. One scale and one zero point
for the whole tensor then do what would have taken a scale and a zero point a channel. Channels that hardly vary are
shifted into that range and made wider by no more than `MOST`.

Source: Li et al., "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision Transformers", arXiv
2212.08254, equations 6 to 13; with widths in place of scales no bit width comes in.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from attnround.graph.batches import in_batches
from attnround.graph.capture import Captured
from attnround.graph.equalize import Equalization
from attnround.graph.fold import FoldedNorm
from attnround.graph.layers import operation
from attnround.graph.trace import runs_once

BATCH_SIZE = 64  # images at a time
MOST = 2.0**16  # a channel's width times this at most: what is wider by more is made of rounding errors


@dataclass(frozen=True)
class LayerNorms(Equalization):
    """Reparametrisation of the LayerNorms whose outputs linear layers alone take."""

    def equalize(self, model: Captured, norms: Mapping[str, FoldedNorm], images: Tensor) -> str:
        found = find_norms(model)
        if not found:
            return "nothing can be equalized: no LayerNorm with a weight and a bias gives to linear layers alone"
        ranges = channel_ranges(model, [taker for _, (taker, *_) in found], images)
        largest = max(
            reparametrise(model, norm, takers, *ranges[takers[0]]).log2().abs().max().item() for norm, takers in found
        )
        return f"{len(found)} LayerNorms, channels scaled by up to {2**largest:.3g}"


def find_norms(model: Captured) -> list[tuple[fx.Node, list[str]]]:
    """The LayerNorms over the last dimension, and the linear layers that take all of what each gives."""
    found = []
    for node in model.graph.nodes:
        if operation(node) != "layer_norm" or len(node.args) < 4 or len(node.args[1]) != 1:
            continue
        owned = all(isinstance(each, fx.Node) and _is_own(each, model) for each in node.args[2:4])
        takers = [user for user in node.users if user.target != "size"]
        if owned and takers and all(_is_linear(user, model) and runs_once(user) for user in takers):
            found.append((node, [user.target for user in takers]))
    return found


@torch.no_grad()
def channel_ranges(model: Captured, names: list[str], images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer name -> lowest and highest value [C] of each channel of its input over the images."""
    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def observe(name: str, x: Tensor) -> None:
        rows = x.flatten(0, -2)
        low, high = ranges.get(name, (rows[0], rows[0]))
        ranges[name] = low.minimum(rows.amin(0)), high.maximum(rows.amax(0))

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: observe(name, args[0]))
        for name in names
    ]
    try:
        for batch in in_batches(images, BATCH_SIZE):
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return ranges


@torch.no_grad()
def reparametrise(model: Captured, norm: fx.Node, takers: list[str], low: Tensor, high: Tensor) -> Tensor:
    """Give a norm's channels one range, in place; return r [C]. One that is the same everywhere is shifted alone."""
    low, width = low.double(), (high - low).double()
    alive = width > 0
    if not alive.any():
        return torch.ones_like(width)
    mean = width[alive].mean()
    below = (-low[alive] / width[alive]).clamp(0, 1).mean()
    factor = torch.where(alive, (width / mean).clamp(min=1 / MOST), 1)
    shift = -low - factor * below * mean
    gamma, beta = (model.get_parameter(each.target) for each in norm.args[2:4])
    gamma.copy_(gamma.double() / factor)
    beta.copy_((beta.double() + shift) / factor)
    for name in takers:
        layer = model.get_submodule(name)
        weight = layer.weight.double()
        bias = -weight @ shift if layer.bias is None else layer.bias.double() - weight @ shift
        layer.weight.copy_(weight * factor)
        layer.bias = nn.Parameter(bias.to(layer.weight.dtype))
    return factor


def _is_own(node: fx.Node, model: Captured) -> bool:
    """Whether a node reads a parameter that nothing else reads."""
    readers = [user for each in node.graph.nodes if each.target == node.target for user in each.users]
    return node.op == "get_attr" and node.target in dict(model.named_parameters()) and len(readers) == 1


def _is_linear(node: fx.Node, model: Captured) -> bool:
    return node.op == "call_module" and isinstance(model.get_submodule(node.target), nn.Linear)
