"""The layers that are quantized: found in execution order, checked, and swapped for ones that hold integers."""

import copy

import torch
from torch import Tensor, fx

from attnround.errors import InputError, listed
from attnround.graph.capture import Captured
from attnround.graph.kinds import QUANTIZABLE
from attnround.graph.trace import calls
from attnround.quantization.layers import Edge, QuantizedLayer
from attnround.quantization.observer import ClipSearch

NORMS = {"layer_norm", "group_norm", "native_layer_norm", "native_group_norm", "rms_norm", "instance_norm"}
PRODUCTS = {"matmul", "bmm", "baddbmm", "addmm", "mm", "einsum", "scaled_dot_product_attention", "linear"}
PRODUCTS |= {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
PRODUCTS |= {"lstm", "gru", "rnn_tanh", "rnn_relu"}


def find_layers(model: Captured) -> dict[str, Tensor]:
    """Name -> float weight [O, *rest] of the quantizable layers, in the order of their first calls.

    Raises InputError that names those with weights that are not finite.
    """
    names = list(dict.fromkeys(node.target for node in calls(model.graph, model, QUANTIZABLE)))
    broken = [name for name in names if not model.get_submodule(name).weight.isfinite().all()]
    if broken:
        raise InputError(f"NaN or infinity in the weights of {listed(broken)}: use an intact checkpoint")
    return {name: model.get_submodule(name).weight.detach() for name in names}


def left_float(model: Captured, names: list[str]) -> dict[str, int]:
    """What stays float where the layers of these names are quantized -> its number of parameters, in execution order.

    model: the float one, with edges where values between layers are quantized too.

    Norms and products of two activations as `kind at module`; other parameters (class tokens, position embeddings,
    layer scales) by their names. Biases of the quantized layers stay float too, and are not listed.
    """
    kept: dict[str, int] = {}
    held, seen = dict(model.named_parameters()), set()
    for node in model.graph.nodes:
        place = node.meta.get("module") or "the model"
        read = [each.target for each in node.all_input_nodes if each.op == "get_attr" and each.target in held]
        if node.op == "call_module":
            module = model.get_submodule(node.target)
            parameters = [f"{node.target}.{name}" for name, _ in module.named_parameters()]
            if node.target in names or not parameters:
                continue
            what, read = f"{type(module).__name__} at {node.target}", parameters
        elif operation(node) in NORMS:
            what = f"{model.kinds.get(place, operation(node)).rpartition('.')[2]} at {place}"
        elif operation(node) in PRODUCTS:
            if all(is_edge(each, model) for each in node.all_input_nodes):
                continue
            what = f"{operation(node)} at {place}"
        elif node.op == "get_attr" and node.target in model.state_dict():
            if {operation(user) for user in node.users} <= NORMS | PRODUCTS:
                continue  # listed with these
            what, read = node.target, [node.target] if node.target in held else []
        else:
            continue
        kept[what] = kept.get(what, 0) + sum(held[name].numel() for name in read if name not in seen)
        seen.update(read)
    return kept


def is_edge(node: fx.Node, model: Captured) -> bool:
    """Whether a node's value has passed an edge."""
    return node.op == "call_module" and isinstance(model.get_submodule(node.target), Edge)


def operation(node: fx.Node) -> str:
    """The name of a node's operation, as torch has it without variants; "" for what is none of torch's.

    >>> graph = fx.Graph()
    >>> operation(graph.call_function(torch.ops.aten.add.Tensor, (1, 2)))
    'add'
    """
    return node.target._opname if isinstance(node.target, torch._ops.OpOverload) else ""


def swap_layers(model: Captured, bit_widths: dict[str, int], observer: ClipSearch) -> Captured:
    """A copy of the model whose named layers are quantized, rounded to nearest at these bit widths."""
    model = copy.deepcopy(model)
    for name, bit_width in bit_widths.items():
        layer = model.get_submodule(name)
        grid = observer.grid(bit_width)
        scale, zero_point = observer.search(layer.weight, grid)
        model.set_submodule(name, QuantizedLayer(layer, grid, scale, zero_point))
    return model
