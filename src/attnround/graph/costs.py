"""What layers cost when the model runs, and which of them meet in a residual sum."""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from attnround.graph.branches import terms
from attnround.graph.capture import Captured
from attnround.graph.kinds import QUANTIZABLE, kind_of
from attnround.graph.layers import PRODUCTS, operation


@torch.no_grad()
def count_macs(model: nn.Module, names: list[str], image: Tensor) -> dict[str, int]:
    """Layer name -> multiply-accumulates for one image [1, C, H, W], of its matrix product alone."""
    return _summed(model, names, image, lambda layer, x, y: kind_of(layer).macs(layer, x, y))


@torch.no_grad()
def count_places(model: nn.Module, names: list[str], image: Tensor) -> dict[str, int]:
    """Layer name -> places of its output (pixels, tokens) for one image [1, C, H, W], over all calls of the layer."""
    return _summed(model, names, image, lambda layer, x, y: y.numel() // len(layer.weight))


def _summed(
    model: nn.Module, names: list[str], image: Tensor, of_a_call: Callable[[nn.Module, Tensor, Tensor], int]
) -> dict[str, int]:
    """Layer name -> the sum over its calls of a count from the layer, its input and its output."""
    counts = dict.fromkeys(names, 0)

    def count(name: str) -> Callable[[nn.Module, tuple, Tensor], None]:
        def hook(layer: nn.Module, args: tuple, output: Tensor) -> None:
            counts[name] += of_a_call(layer, args[0], output)

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(count(name)) for name in names]
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def residual_groups(model: Captured) -> list[list[str]]:
    """Names of the layers whose outputs meet in one residual sum, in execution order; sums that share one are joined.

    The layer behind a term is the last one before it on each path: activations, pools, norms and what is scaled are
    looked through, not matrix products nor the scale, as of squeeze-and-excitation; a parameter is no term.
    """
    order = [node.target for node in model.graph.nodes if is_layer(node, model)]
    group_of: dict[str, set[str]] = {}
    for node in model.graph.nodes:
        if terms(node) and not any(term.op == "get_attr" for term in terms(node)):
            layers = set().union(*(_layers_behind(term, model) for term in terms(node)))
            joined = layers.union(*(group_of.get(name, set()) for name in layers))
            group_of |= dict.fromkeys(joined, joined)
    groups = {id(group): group for group in group_of.values() if len(group) > 1}
    return sorted(
        (sorted(group, key=order.index) for group in groups.values()), key=lambda group: order.index(group[0])
    )


def _layers_behind(node: fx.Node, model: nn.Module) -> set[str]:
    found, waiting, seen = set(), [node], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_layer(node, model):
            found.add(node.target)
        elif operation(node) not in PRODUCTS:
            scaled = [each for each in node.all_input_nodes if each.meta.get("shape") == node.meta.get("shape")]
            waiting.extend(scaled if operation(node) == "mul" else node.all_input_nodes)
    return found


def is_layer(node: fx.Node, model: nn.Module) -> bool:
    """Whether a node calls a quantizable layer."""
    return node.op == "call_module" and isinstance(model.get_submodule(node.target), QUANTIZABLE)
