"""A model's graph as it runs: the order of its layers and who feeds whom, from torch.fx and not from naming tables."""

import operator

import timm.layers
from timm.layers import Conv2dSame, get_notrace_functions, get_notrace_modules
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnround.errors import InputError, reason

QUANTIZABLE = (nn.Conv2d, Conv2dSame, nn.Linear, timm.layers.Linear)  # exactly these: a subclass may do more
OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    operator.isub: operator.sub,
    operator.itruediv: operator.truediv,
}


class _Tracer(fx.Tracer):
    """Stops at torch's and timm's basic modules; a batch norm with an activation (BatchNormAct2d) is one of them."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.leaves = (_BatchNorm, nn.Conv2d, nn.Linear, *get_notrace_modules())

    def create_args_for_root(self, root_fn, is_module: bool, concrete_args: dict | None = None) -> tuple:
        """The image alone is an input; what else a forward takes keeps its default."""
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, self.leaves) or super().is_leaf_module(module, name)


def trace(model: nn.Module) -> fx.Graph:
    """The graph of a model with one input and one output, every operation out of place.

    In-place operations would spoil activations that are kept and used again; the model's modules are switched too.
    Raises InputError where the forward depends on the data or needs more than an image.
    """
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False
    try:
        graph = _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{type(model).__name__} cannot be handled: its forward cannot be traced ({reason(error)})"
        ) from error
    for node in graph.nodes:
        node.target = OUT_OF_PLACE.get(node.target, node.target) if node.op == "call_function" else node.target
        if node.kwargs.get("inplace"):
            node.update_kwarg("inplace", False)
        if node.op == "call_method" and node.target.endswith("_") and not node.target.endswith("__"):
            raise InputError(
                f"{type(model).__name__} cannot be handled: it calls {node.target} in place at {node.name}"
            )
    return graph


def calls(graph: fx.Graph, model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[fx.Node]:
    """The nodes that call a module of these kinds, in execution order."""
    return [
        node for node in graph.nodes if node.op == "call_module" and isinstance(model.get_submodule(node.target), kinds)
    ]


def executor(model: nn.Module, graph: fx.Graph, traced: nn.Module) -> fx.Interpreter:
    """What runs single nodes of the graph of `traced` with the modules of `model`, a copy of it."""
    for node in graph.nodes:  # a constant made in the forward became an attribute of what was traced
        if node.op == "get_attr" and node.target.startswith("_tensor_constant"):
            setattr(model, node.target, getattr(traced, node.target))
    return fx.Interpreter(fx.GraphModule(model, graph), garbage_collect_values=False)
