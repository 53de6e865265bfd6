"""The layers that are quantized: found in execution order, checked, and swapped for ones that hold integers."""

import copy
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnround.errors import InputError
from attnround.models.trace import QUANTIZABLE, calls, trace
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import ClipSearch

FLOAT = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)  # weights that scale features, a value a channel
PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention", "linear", "conv2d"}  # as functions


@dataclass(frozen=True)
class Layer:
    """A layer to be quantized: its name in the model and its float weight [O, *rest], batch norm folded in."""

    name: str
    weight: Tensor


def find_layers(model: nn.Module) -> list[Layer]:
    """The quantizable layers in execution order.

    Raises InputError that names the module and the reason where a weight could not be quantized rightly.
    """
    graph = trace(model)
    names = [node.target for node in calls(graph, model, QUANTIZABLE)]
    called = {node.target for node in graph.nodes if node.op == "call_module"}
    for name, module in model.named_modules():
        _check(name, module, names, called)
    return [Layer(name, model.get_submodule(name).weight.detach()) for name in names]


def _check(name: str, module: nn.Module, names: list[str], called: set[str]) -> None:
    kind = type(module).__name__
    if type(module) in QUANTIZABLE:
        if names.count(name) != 1:
            around = next((outer for outer in called if name.startswith(f"{outer}.")), None)
            why = f"it is inside {around}, whose forward cannot be traced" if around else "the forward never calls it"
            why = "the forward calls it more than once" if name in names else why
            raise InputError(f"{name} ({kind}) cannot be handled: {why}")
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise InputError(f"{name} ({kind}) cannot be handled: padding_mode={module.padding_mode}, only zeros is")
        if not module.weight.isfinite().all():
            raise InputError(f"{name} ({kind}) has NaN or infinity in its weight: use an intact checkpoint")
    elif isinstance(module, QUANTIZABLE):
        raise InputError(
            f"{name} ({kind}) cannot be handled: it is no plain Conv2d or Linear and may change its weight"
        )
    elif not isinstance(module, FLOAT):
        own = [key for key, parameter in module.named_parameters(recurse=False) if parameter.ndim > 1]
        if "weight" in own or "in_proj_weight" in own:
            raise InputError(f"{name} ({kind}) cannot be handled yet: only Conv2d and Linear weights are quantized")


def left_float(model: nn.Module, names: list[str]) -> list[str]:
    """What stays float where the layers of these names are quantized, in execution order.

    Norms and products of two activations as `kind at module`; other parameters (class tokens, position embeddings,
    layer scales) by their names.
    """
    kept = []
    parameters = dict(model.named_parameters())
    for node in trace(model).nodes:
        kind = getattr(node.target, "__name__", node.target)
        if node.op == "call_module":
            module = model.get_submodule(node.target)
            if node.target not in names and any(True for _ in module.parameters()):
                kept.append(f"{type(module).__name__} at {node.target}")
        elif node.op == "get_attr" and node.target in parameters:
            name = node.target.rpartition(".")[0]
            module = model.get_submodule(name)
            kept.append(f"{type(module).__name__} at {name}" if isinstance(module, FLOAT) else node.target)
        elif node.op in ("call_function", "call_method") and kind in PRODUCTS:
            kept.append(f"{kind} at {next(reversed(node.meta.get('nn_module_stack', {'the model': None})))}")
    return list(dict.fromkeys(kept))


def swap_layers(model: nn.Module, bit_widths: dict[str, int], observer: ClipSearch) -> nn.Module:
    """A copy of the model whose named layers are quantized, rounded to nearest at these bit widths."""
    model = copy.deepcopy(model)
    for name, bit_width in bit_widths.items():
        layer = model.get_submodule(name)
        grid = observer.grid(bit_width)
        scale, zero_point = observer.search(layer.weight, grid)
        model.set_submodule(name, QuantizedLayer(layer, grid, scale, zero_point))
    return model
