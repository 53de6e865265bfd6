"""The float operations of a quantized model as an ONNX graph that says where the integers belong.

torch's exporter of captured programs writes it. What enters a quantized layer, its weight and, where that has a
quantizer, its input, goes through an operator `Marked` of a domain of our own, which says the layer's name. So does
what goes through a quantized edge. The
exporter's optimizer leaves an operator alone that it does not know, so the marks are found again whatever became of
the operations around them. In the graph they are a function that gives back what it gets: it runs as it is.
"""

import contextlib
import copy
import itertools
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attnround.deploy.opset import WRITTEN, in_opset
from attnround.errors import InputError, reason
from attnround.graph import Captured
from attnround.quantization.layers import QuantizedLayer, quantized_edges, quantized_layers

DOMAIN, MARKED = "attnround", "Marked"
CHATTY = ("onnxscript", "onnx_ir", "torch.onnx")
FUNCTIONS = 8  # the first version of ONNX files with functions in them
UNTRANSLATED = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")


def marked(tensor: Tensor, layer: str, part: str) -> Tensor:
    """The tensor, marked as the `input` or the `weight` of a layer, or as the `input` of an edge."""
    says = {"layer": layer, "part": part}
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{MARKED}", (tensor,), says, dtype=tensor.dtype, shape=tensor.shape, version=1
    )


class _MarkedLayer(nn.Module):
    """A quantized layer with marks. Its tensors have the names that they had in the float model."""

    def __init__(self, name: str, quantized: QuantizedLayer):
        super().__init__()
        self.name, self.inputs = name, quantized.activation is not None
        self.layer = (quantized.layer,)  # no submodule, whose tensors would have longer names
        self.weight, self.bias = quantized.layer.weight, quantized.layer.bias

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as QuantizedLayer)
        values = {"weight": marked(self.weight, self.name, "weight"), "bias": self.bias}
        x = marked(input, self.name, "input") if self.inputs else input
        return torch.func.functional_call(self.layer[0], values, (x,))


class _MarkedEdge(nn.Module):
    """A quantized value between layers with a mark."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return marked(x, self.name, "input")


@torch.no_grad()
def float_graph(model: nn.Module, opset: int) -> Any:
    """The ONNX model of a quantized model's float operations: images [batch, C, H, W] -> logits, dequantized weights.

    Of a model that gives several tensors each is an output under its key.

    Raises InputError where an operation has no translation, or none in this opset.
    """
    from onnx import helper

    net, keys = model.returning_tensors() if isinstance(model, Captured) else (copy.deepcopy(model), [""])
    for name, layer in quantized_layers(net).items():
        net.set_submodule(name, _MarkedLayer(name, layer))
    for name in quantized_edges(net):
        net.set_submodule(name, _MarkedEdge(name))
    images = torch.zeros(2, *model.preprocessing["input_size"])
    names = [key or "logits" for key in keys]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"the model gives two outputs called {twice}: rename one in the model")
    inner = tuple(f"{name}." for name in (*quantized_layers(model), *quantized_edges(model)))
    for name in names:
        if name == "images" or name.startswith(inner):
            what = "the file's input" if name == "images" else "a tensor of the file"
            raise InputError(f"the model gives an output called {name}, as {what} is: rename it in the model")
    try:
        with warnings.catch_warnings(), _hushed():
            warnings.simplefilter("ignore")  # of torch's own use of what it deprecates
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(net, (images,), dynamic_shapes=shapes)
            found = torch.onnx.export(
                program, dynamo=True, opset_version=WRITTEN, input_names=["images"], dynamic_shapes=shapes,
                output_names=[f"{DOMAIN}.output.{i}" for i in range(len(names))], verbose=False,
            )  # fmt: skip
    except Exception as error:  # torch's kinds are many
        raise InputError(f"the model cannot be written as ONNX: {_why(error)}") from error
    written = found.model_proto
    _name_outputs(written.graph, names)
    graph = _bare(in_opset(written, opset))
    imports = [helper.make_opsetid("", opset)]
    nothing = helper.make_node("Identity", ["given"], ["same"])
    graph.functions.append(
        helper.make_function(DOMAIN, MARKED, ["given"], ["same"], [nothing], imports, attributes=["layer", "part"])
    )
    graph.ir_version = max(FUNCTIONS, helper.find_min_ir_version_for(imports))
    return graph


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Within, the exporter's libraries log no notes of what their passes do."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _name_outputs(graph: Any, names: list[str]) -> None:
    """Give a graph's outputs these names, and values within that have one of them another."""
    nodes, constants = graph.node, graph.initializer
    taken = {name for node in nodes for name in node.output} | {each.name for each in constants}
    others = {}
    for name in names:
        if name in taken:
            others[name] = next(new for i in itertools.count() if (new := f"{name}.{i}") not in taken.union(names))
    renamed = others | {each.name: name for each, name in zip(graph.output, names, strict=True)}
    for each in (*constants, *graph.output, *graph.value_info):
        each.name = renamed.get(each.name, each.name)
    for node in nodes:
        for places in (node.input, node.output):
            places[:] = [renamed.get(name, name) for name in places]


def _bare(model: Any) -> Any:
    """Without the notes of torch's exporter, such as the lines of code that an operation came from."""
    graph = model.graph
    for each in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        each.ClearField("metadata_props")
        each.ClearField("doc_string")
    graph.ClearField("value_info")  # what each value is, which follows from the operators
    return model


def _why(error: BaseException) -> str:
    """The operation that has no translation, or else the first line of what lies behind the exporter's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    untranslated = UNTRANSLATED.search(str(error))
    return f"torch's exporter has no translation of {untranslated[1]}" if untranslated else reason(error)
