"""Where values between layers are quantized, so that a runtime can stay in integers from one layer to the next.

A runtime runs an operation in integers where it finds quantizers at the right places around it:

    onnxruntime   a convolution's result, after its activation; the operands and the result of sums, products,
                  concatenations, average pools and sigmoids. What only passes values on, such as a maximum pool, wants
                  the same scale before and after.
    tensorrt      the skip operand of a residual sum; a quantizer on the convolution's own branch would break the fusion
    openvino      the operands of sums, products, concatenations and average pools, but for a convolution's result,
                  perhaps past a ReLU or clamp, that only a sum takes: the sum becomes a part of that convolution, whose
                  own result is not rounded then

Operations with a constant operand are left alone. So are those of transformers: an operation counts where an operand,
for openvino all of them, comes from a convolution. Of these what attention's products take is quantized where asked,
whatever the runtime.

Sources: onnxruntime's core/optimizer/qdq_transformer; NVIDIA's Model-Optimizer, pull request 2024; NNCF's placement,
and FuseConvolutionSumAndConvolutionSumActivation in OpenVINO's graph_optimizer.cpp, which of two convolutions takes the
one whose result is not quantized.
"""

import copy
from collections.abc import Callable, Collection, Iterator

from torch import fx, nn

from attnround.errors import InputError
from attnround.graph.attention import operands_of_products, write_out_attention
from attnround.graph.capture import Captured
from attnround.graph.costs import is_layer
from attnround.graph.kinds import QUANTIZABLE
from attnround.graph.layers import is_edge, operation
from attnround.graph.trace import calls, of_images, place
from attnround.quantization.layers import Edge

PREFIX = "edges"
FUSED = {"relu", "relu6", "hardtanh", "clamp", "clamp_min"}  # with the operation before them
JOINING = {"add", "mul", "cat"}
POOLS = {"avg_pool2d", "adaptive_avg_pool2d"}
GATES = {"sigmoid", "leaky_relu"}
PASSING = {
    "alias", "clone", "flatten", "max_pool2d", "permute", "reshape", "slice", "squeeze", "transpose", "unsqueeze",
}  # fmt: skip
PADDING = {"pad", "constant_pad_nd"}


def with_edges(model: Captured, placement: str, attention: bool = False) -> Captured:
    """The model with an `Edge` at every value that this placement quantizes; itself where it has them.

    The copy has the same parameters and modules, and a graph of its own. placement: of `PLACEMENTS`; attention: whether
    what products of two values take is quantized too. Raises InputError where there is no such product.
    """
    if (placement, attention) == (model.placement, model.quantizes_attention):
        return model
    asked = "activation.attention=true" if attention else f"activation.placement={placement}"
    if not find_edges(model) and PREFIX in model._modules:
        what = f"{asked}: the model has a submodule called {PREFIX}"
        raise InputError(f"{what}, as the quantizers that this adds: rename it")
    placed = _sharing(model, copy.deepcopy(model.graph))
    names: list[str] = []
    for node in _wanted(placed, placement):
        users = [user for user in node.users if user.target != "size"]
        names.append(_insert(placed, node, users, _free(f"{PREFIX}.{_title(node)}", names), Edge()))
    if attention:
        write_out_attention(placed)
        operands = list(operands_of_products(placed.graph))
        if not operands:
            raise InputError(f"{asked}: the model has no product of two values: leave it out")
        taken: dict[fx.Node, dict[fx.Node, str]] = {}  # value -> the products that take it, and what it is to each
        for product, node, name in operands:
            taken.setdefault(node, {}).setdefault(product, ".".join(filter(None, (product.meta["module"], name))))
        for node, products in taken.items():
            name = _free(f"{PREFIX}.{next(iter(products.values()))}", names)
            names.append(_insert(placed, node, list(products), name, Edge(of_product=True)))
    placed.placement, placed.quantizes_attention = placement, attention
    placed.compile_graph()
    return placed


def _insert(model: Captured, node: fx.Node, users: list[fx.Node], name: str, edge: Edge) -> str:
    """Let these users of a node take its value past an edge of this name, which is given back."""
    place(model, name, edge)
    with model.graph.inserting_after(node):
        passed = model.graph.call_module(name, (node,))
    passed.meta = dict(node.meta)
    for user in users:
        user.replace_input_with(node, passed)
    return name


def beside(model: Captured, student: Captured) -> Captured:
    """The model with the graph of a student that has edges, where its own do nothing; itself where there are none.

    So one graph serves both, node by node.
    """
    edges = find_edges(student)
    if not edges:
        return model
    placed = _sharing(model, student.graph)
    for name in edges:
        place(placed, name, Edge())
    return placed


def find_edges(model: Captured) -> dict[str, Edge]:
    """The edges of a model by name, in execution order."""
    return {node.target: model.get_submodule(node.target) for node in calls(model.graph, model, (Edge,))}


def has_integer_bias(layer: nn.Module, placement: str) -> bool:
    """Whether the runtime of a placement rounds a layer's bias to whole steps of the sums of its integers.

    onnxruntime does for convolutions, for transposed ones too, which it runs in floats; to products of matrices it adds
    floats, as OpenVINO and TensorRT do everywhere.
    """
    return placement == "onnxruntime" and layer.weight.ndim > 2


def sources(model: Captured) -> dict[str, set[str]]:
    """Layer or edge -> the edges whose values it takes unchanged, one a call; what takes others too is left out."""
    found: dict[str, set[str | None]] = {}
    for node in calls(model.graph, model, (*QUANTIZABLE, Edge)):
        found.setdefault(node.target, set()).add(_source(node.args[0], model))
    return {name: {edge for edge in edges if edge} for name, edges in found.items() if None not in edges}


def _sharing(model: Captured, graph: fx.Graph) -> Captured:
    """A model with the same parameters and modules, but for the edges, and this graph."""
    copied = Captured(graph, model.kinds, model.form)
    own = ("graph", "_modules", "_run")
    copied.__dict__.update({key: value for key, value in vars(model).items() if key not in own})
    copied._modules = {name: module for name, module in model._modules.items() if name != PREFIX}
    return copied


def _source(node: fx.Node, model: Captured) -> str | None:
    while _passes(node, model):
        node = node.args[0]
    return node.target if is_edge(node, model) else None


def _wanted(model: Captured, placement: str) -> list[fx.Node]:
    """The nodes whose values are quantized, in execution order."""
    rules: dict[str, Callable[[Captured], Iterator[fx.Node]]] = {
        "inputs": lambda model: iter(()), "onnxruntime": _onnxruntime, "tensorrt": _tensorrt, "openvino": _openvino,
    }  # fmt: skip
    wanted = set(rules[placement](model))
    return [node for node in model.graph.nodes if node in wanted and node.op != "placeholder" and node.meta["shape"]]


def _onnxruntime(model: Captured) -> Iterator[fx.Node]:
    held: set[fx.Node] = set()
    for node, operands in _joining(model.graph, JOINING | POOLS | GATES):
        if _is_convolution(node, model):
            held.add(_with_activation(node, model))
        elif any(_comes_from(each, held, model) for each in operands):
            held |= {*operands, _with_activation(node, model)}
    yield from held


def _tensorrt(model: Captured) -> Iterator[fx.Node]:
    for node, branch in _branches(model).items():
        yield from (each for each in node.args[:2] if each is not branch)


def _openvino(model: Captured) -> Iterator[fx.Node]:
    convolved: set[fx.Node] = set()  # nodes for whose value the last layers are convolutions
    branches = _branches(model, FUSED)
    for node, operands in _joining(model.graph, JOINING | POOLS):
        if _is_convolution(node, model) or (not is_layer(node, model) and convolved & set(node.all_input_nodes)):
            convolved.add(node)
        if operands and convolved >= set(operands):
            yield from (each for each in operands if each is not branches.get(node) or len(each.users) > 1)


def _branches(model: Captured, fused: Collection[str] = ()) -> dict[fx.Node, fx.Node]:
    """Residual sum -> of its operands the convolution's result, the one of most layers, that the sum is computed with.

    fused: activations that may lie between convolution and sum.
    """
    found: dict[fx.Node, fx.Node] = {}
    depth: dict[fx.Node, int] = {}  # the most layers on a way to this node
    for node, operands in _joining(model.graph, {"add"}):
        before = max((depth[each] for each in node.all_input_nodes), default=0)
        depth[node] = before + is_layer(node, model)
        convolutions = [each for each in operands if _is_convolution(_behind(each, model, fused), model)]
        if convolutions:
            found[node] = max(convolutions, key=depth.__getitem__)
    return found


def _joining(graph: fx.Graph, operations: set[str]) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """Each node, and if it is one of these operations the values that it takes, where all depend on the images."""
    depending = of_images(graph)
    for node in graph.nodes:
        name, operands = operation(node), []
        if name in operations:
            given = node.args[0] if name == "cat" else node.args[: 2 if name in JOINING else 1]
            operands = list(given) if depending.issuperset(given) else []
        yield node, operands


def _is_convolution(node: fx.Node, model: Captured) -> bool:
    """Of one to three dimensions; a linear layer gives its result in floats in any runtime."""
    return is_layer(node, model) and model.get_submodule(node.target).weight.ndim > 2


def _with_activation(node: fx.Node, model: Captured) -> fx.Node:
    """The node whose value leaves an operation that runtimes fuse with the activation behind it."""
    while len(node.users) == 1:
        (user,) = node.users
        if operation(user) in FUSED:
            return user
        if not _does_nothing(user, model):
            break
        node = user
    return node


def _behind(node: fx.Node, model: Captured, fused: Collection[str] = ()) -> fx.Node:
    """The node that a value comes from, past modules that do nothing and past these activations."""
    while _does_nothing(node, model) or operation(node) in fused:
        node = node.args[0]
    return node


def _comes_from(node: fx.Node, held: set[fx.Node], model: Captured) -> bool:
    """Whether a value is one of these, perhaps passed on."""
    while node not in held and _passes(node, model):
        node = node.args[0]
    return node in held


def _passes(node: fx.Node, model: Captured) -> bool:
    """Whether all values of a node are its input's, or zeros, which every range has."""
    name = node.target if node.op == "call_method" else operation(node)
    return name in PASSING or pads_zeros(node, name) or _does_nothing(node, model)


def pads_zeros(node: fx.Node, name: object) -> bool:
    """Whether a node of this name pads with zeros."""
    _, _, *how = node.args if name in PADDING else (None, None, "none")
    return not any(how) if name == "constant_pad_nd" else how in ([], ["constant"], ["constant", 0], ["constant", 0.0])


def _does_nothing(node: fx.Node, model: Captured) -> bool:
    return node.op == "call_module" and type(model.get_submodule(node.target)) is nn.Identity


def _title(node: fx.Node) -> str:
    """The module that a value comes from, and the operation."""
    if node.op == "call_module":
        return f"{node.target}.result"
    name = operation(node) or str(node.target)
    return f"{node.meta['module']}.{name}" if node.meta.get("module") else name


def _free(name: str, taken: list[str]) -> str:
    """The name, or one with a number behind it, that no other has or lies within."""
    number = 1
    while True:
        numbered = name if number == 1 else f"{name}_{number}"
        if not any(f"{each}.".startswith(f"{numbered}.") for each in taken):
            return numbered
        number += 1
