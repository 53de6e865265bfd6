"""A model's graph as it runs: the order of its layers and who feeds whom, from torch.fx and not from naming tables."""

from collections import defaultdict
from functools import partial

import timm.layers
from timm.layers import Conv2dSame, get_notrace_functions, get_notrace_modules
from timm.models.vgg import ConvMlp
from torch import Tensor, fx, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.nn.modules.batchnorm import _BatchNorm

from attnround.errors import InputError, reason
from attnround.models.out_of_place import Proxy, switch_modules, work_out_of_place

QUANTIZABLE = (nn.Conv2d, Conv2dSame, nn.Linear, timm.layers.Linear)  # exactly these: a subclass may do more


class _Tracer(fx.Tracer):
    """Stops at torch's and timm's basic modules; a batch norm with an activation (BatchNormAct2d) is one of them."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.proxy_buffer_attributes = True  # a buffer moves with its model, a constant made of one would not
        self.leaves = (_BatchNorm, nn.Conv2d, nn.Linear, *get_notrace_modules())

    def create_args_for_root(self, root_fn, is_module: bool, concrete_args: dict | None = None) -> tuple:
        """The image alone is an input; what else a forward takes keeps its default."""
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        if isinstance(module, ConvMlp):
            return False
        return isinstance(module, self.leaves) or super().is_leaf_module(module, name)

    def call_module(self, m: nn.Module, forward, args: tuple, kwargs: dict) -> object:
        """timm declares VGG's head untraceable for one condition on a size; with that in a function it is traceable."""
        return super().call_module(m, partial(_conv_mlp, m) if isinstance(m, ConvMlp) else forward, args, kwargs)


def _conv_mlp(head: ConvMlp, x: Tensor) -> Tensor:
    x = head.act1(head.fc1(_at_least(x, head.input_kernel_size)))
    return head.act2(head.fc2(head.drop(x)))


@fx.wrap
def _at_least(x: Tensor, side: int) -> Tensor:
    """[N, C, H, W] pooled to at least side by side, which repeats values where it is smaller."""
    height, width = x.shape[-2:]
    return adaptive_avg_pool2d(x, (max(side, height), max(side, width))) if min(height, width) < side else x


def trace(model: nn.Module) -> fx.Graph:
    """The graph of a model with one input and one output, every operation out of place.

    In-place operations would spoil activations that are kept and used again; the model's modules are switched too.
    Raises InputError where the forward depends on the data, needs more than an image or gives more than a tensor, and
    where a layer shares its weight.
    """
    switched = switch_modules(model)
    try:
        graph = _Tracer().trace(model)
        graph.lint()  # a forward that keeps what it computed for the next call mixes two graphs
    except Exception as error:  # a forward that meets no tensor but a proxy may fail in any way
        raise InputError(
            f"{type(model).__name__} cannot be handled: its forward cannot be traced ({reason(error)})"
        ) from error
    work_out_of_place(graph, model, switched)
    if not isinstance(graph.output_node().args[0], fx.Node):
        raise InputError(f"{type(model).__name__} cannot be handled: it gives several values, only one tensor is taken")
    _check_parameters(graph, model)
    return graph


def _check_parameters(graph: fx.Graph, model: nn.Module) -> None:
    """Raises InputError where a quantizable layer's weight or bias is used elsewhere too."""
    names, of_layers = defaultdict(list), {}
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            names[parameter].append(f"{name}.{key}")
            if isinstance(module, QUANTIZABLE):
                of_layers[f"{name}.{key}"] = parameter
    for parameter in of_layers.values():
        if len(names[parameter]) > 1:
            raise InputError(
                f"{' and '.join(names[parameter])} are one tensor and cannot be handled: give each layer its own"
            )
    read = [node.target for node in graph.nodes if node.op == "get_attr" and node.target in of_layers]
    if read:
        raise InputError(f"{read[0]} cannot be handled: it is read outside its layer, which quantizes it")


def calls(graph: fx.Graph, model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[fx.Node]:
    """The nodes that call a module of these kinds, in execution order."""
    return [
        node for node in graph.nodes if node.op == "call_module" and isinstance(model.get_submodule(node.target), kinds)
    ]


def executor(model: nn.Module, graph: fx.Graph, traced: nn.Module) -> fx.Interpreter:
    """What runs single nodes of the graph of `traced` with the modules of `model`, a copy of it."""
    device = next((parameter.device for parameter in model.parameters()), None)
    for node in graph.nodes:  # a constant made in the forward became an attribute of what was traced
        if node.op == "get_attr" and node.target.startswith("_tensor_constant"):
            setattr(model, node.target, getattr(traced, node.target).to(device))
    return fx.Interpreter(fx.GraphModule(model, graph), garbage_collect_values=False)
