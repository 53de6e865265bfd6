"""Pairs of layers between which every channel can be scaled at will, and the outputs stay as they are.

The first layer's output meets the second's input through operations that treat each channel by itself and are
positively homogeneous, f(s y) = s f(y) for s > 0: ReLU, pools, zero padding. Nothing else takes a value on the way. A
ReLU6 is homogeneous too once its cap is scaled along, channel by channel, which a `ChannelCap` can be.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from attnround.errors import InputError
from attnround.graph.capture import Captured
from attnround.graph.costs import is_layer
from attnround.graph.edges import pads_zeros
from attnround.graph.kinds import Linear, TransposedConv, kind_of, margins
from attnround.graph.layers import operation
from attnround.graph.trace import calls, only_user, place, runs_once

aten = torch.ops.aten
PREFIX = "caps"
POINTWISE = {"relu", "leaky_relu", "prelu", "alias", "clone"}
POOLS = {"max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}
PADDED_POOLS = {"avg_pool1d", "avg_pool2d", "avg_pool3d"}  # their means may have zeros of a padding in them
LIMITS = {"relu6": (0, 6), "hardtanh": (-1, 1), "clamp": (None, None)}  # where their arguments do not say it


class ChannelCap(nn.Module):
    """min(x, limit) with a limit a channel, of the shape [C, 1, ...] that meets x."""

    limit: Tensor

    def __init__(self, limit: Tensor):
        super().__init__()
        self.register_buffer("limit", limit)

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(x, self.limit)


@dataclass(frozen=True)
class Pair:
    """Two layers, by name, the second of which takes what the first gives.

    channels: of the first's output; repeat: inputs of the second that come of one channel, one behind another: more
    than one where a linear layer takes a flattened image; cap: the ReLU6 between them, if there is one; passes_shifts:
    whether a constant that is taken from a channel arrives at every output of the second in full, so that its bias can
    make up for it: not where zeros of a padding come in.
    """

    first: str
    second: str
    channels: int
    repeat: int
    cap: fx.Node | None
    passes_shifts: bool


def find_pairs(model: Captured) -> list[Pair]:
    """The pairs of a model whose batch norms are folded, in execution order. A layer may be in two."""
    starts = (node for node in model.graph.nodes if is_layer(node, model) and runs_once(node))
    return [pair for pair in (_followed(node, model) for node in starts) if pair is not None]


def cap_channels(model: Captured, names: list[str]) -> None:
    """Give the ReLU6 behind each layer of these names a limit a channel, 6 in all; in place.

    Raises LookupError for a layer that has none behind it, and InputError for a submodule of the name they get.
    """
    if names and PREFIX in model._modules and not find_caps(model):
        raise InputError(
            f"equalization: the model has a submodule called {PREFIX}, as the limits that this adds: rename it"
        )
    caps = {pair.first: pair.cap for pair in find_pairs(model) if pair.cap is not None}
    for name in names:
        _cap_channels(model, name, caps[name])
    if names:
        model.compile_graph()


def find_caps(model: Captured) -> dict[str, ChannelCap]:
    """Layer name -> the limits of the activation behind it, where those are a value a channel."""
    found = (node.target for node in calls(model.graph, model, (ChannelCap,)))
    return {name.removeprefix(f"{PREFIX}.").removesuffix(".result"): model.get_submodule(name) for name in found}


def _followed(layer: fx.Node, model: Captured) -> Pair | None:
    """The pair whose first layer this is."""
    first = model.get_submodule(layer.target)
    axis = len(layer.meta["shape"]) - 1 if isinstance(kind_of(first), Linear) else 1
    channels, repeat, cap, passes_shifts = len(first.weight), 1, None, True
    before, node = layer, only_user(layer)
    while node is not None and not is_layer(node, model):
        name = node.target if node.op == "call_method" else operation(node)
        shape = node.meta.get("shape") or ()
        if name == "reshape" and axis == 1 and _flattens(before, node):
            repeat = shape[1] // channels
        elif not _keeps_channels(node, name, axis, model):
            return None
        if _limit(node) is not None:
            if cap is not None or len(shape) != len(layer.meta["shape"]):
                return None  # two limits, or one a value of a flattened image
            cap = node
        passes_shifts &= name not in PADDED_POOLS and not pads_zeros(node, name)
        before, node = node, only_user(node)
    if node is None or node is layer or not runs_once(node):
        return None
    second = model.get_submodule(node.target)
    takes_last = isinstance(kind_of(second), Linear)
    if axis != (len(before.meta["shape"]) - 1 if takes_last else 1) or num_inputs(second) != channels * repeat:
        return None
    return Pair(layer.target, node.target, channels, repeat, cap, passes_shifts and _meets_all(second))


def num_inputs(layer: nn.Module) -> int:
    """Input channels of a layer, of all its groups together."""
    return getattr(layer, "groups", 1) * layer.weight.shape[1]


def _keeps_channels(node: fx.Node, name: object, axis: int, model: Captured) -> bool:
    """Whether an operation is homogeneous and leaves the channels where they are, along this axis."""
    if node.op == "call_module":
        return type(model.get_submodule(node.target)) is nn.Identity
    if name in POINTWISE or _limit(node) is not None or _is_relu(node, name):
        return True
    if name in POOLS | PADDED_POOLS:
        return axis == 1 and len(node.meta["shape"]) == int(name[-2]) + 2  # a pool over [N, K] is over K
    if name == "mean":
        num_dims = len(node.args[0].meta["shape"])
        return len(node.args) > 1 and all(dim % num_dims > axis for dim in node.args[1] or [0])
    return pads_zeros(node, name) and len(node.args[1]) // 2 < len(node.meta["shape"]) - axis


def _is_relu(node: fx.Node, name: object) -> bool:
    """Whether a clamp is a ReLU under another name."""
    return name in ("clamp", "clamp_min") and [*node.args[1:], None, None][:2] == [0, None] and not node.kwargs


def _limit(node: fx.Node) -> float | None:
    """What a ReLU6 or its like, clip(x, 0, limit), ends at; None for any other operation."""
    name = operation(node)
    if node.kwargs or name not in LIMITS:
        return None
    low, high = [*node.args[1:], *LIMITS[name][len(node.args) - 1 :]][:2]
    is_number = isinstance(low, int | float) and isinstance(high, int | float)
    return float(high) if is_number and low == 0 and high > 0 else None


def _flattens(before: fx.Node, node: fx.Node) -> bool:
    """Whether [N, C, *sizes] becomes [N, C * sizes], so that a channel's values stay beside one another."""
    old, new = before.meta["shape"], node.meta["shape"]
    return len(new) == 2 and None not in (*old[1:], new[1]) and new[1] == math.prod(old[1:])


def _meets_all(layer: nn.Module) -> bool:
    """Whether every output of a layer sees all its weights: no padding, and no gaps as of a transposed convolution."""
    if isinstance(layer, nn.Linear):
        return True
    return not isinstance(layer, TransposedConv) and not any(map(any, margins(layer)))


def _cap_channels(model: Captured, name: str, node: fx.Node) -> None:
    layer, path = model.get_submodule(name), f"{PREFIX}.{name}.result"
    limits = layer.weight.new_full((len(layer.weight),), _limit(node))
    place(model, path, ChannelCap(kind_of(layer).per_output(limits)))
    with model.graph.inserting_before(node):
        relu = model.graph.call_function(aten.relu.default, (node.args[0],))
        capped = model.graph.call_module(path, (relu,))
    relu.meta, capped.meta = dict(node.meta), dict(node.meta)
    node.replace_all_uses_with(capped)
    model.graph.erase_node(node)
