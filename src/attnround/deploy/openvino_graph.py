"""What is changed in an ONNX graph before OpenVINO reads it, so that the IR has few operations and a short .xml.

OpenVINO's reader shapes the bias of a convolution, and the scales and zero points of a DequantizeLinear, by operations
of their own. Here they come as constants that have their shape, and zero points that are zero do not come at all.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np


def slim(graph: Any) -> None:
    """Take constant biases of convolutions, and DequantizeLinear operations, apart.

    A convolution keeps its name, and the sum behind it the name of the result; so does what a DequantizeLinear becomes.
    """
    constants = {each.name: each for each in graph.initializer}
    ranks = {name: len(each.dims) for name, each in constants.items()}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in ranks:
            ranks[node.output[0]] = ranks[node.input[0]]
        if node.op_type == "Conv" and len(node.input) > 2 and node.input[2] in constants:
            nodes.extend(_without_bias(node, constants))
        elif node.op_type == "DequantizeLinear":
            nodes.extend(_apart(node, constants, ranks.get(node.input[0], 0)))
        else:
            nodes.append(node)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants.values())


def _without_bias(node: Any, constants: dict[str, Any]) -> Iterator[Any]:
    """A convolution, and the sum of its result and its bias."""
    from onnx import helper

    strides = _attribute(node, "strides")
    if not strides:
        yield node
        return
    bias, result = node.input.pop(), node.output[0]
    node.output[0] = f"{result}/without_bias"
    shaped = _shaped(constants, bias, [1, -1, *[1] * len(strides)])
    yield node
    yield helper.make_node("Add", [node.output[0], shaped], [result], f"{node.name}/bias")


def _apart(node: Any, constants: dict[str, Any], rank: int) -> Iterator[Any]:
    """(codes - zero point) * scale in floats. rank: of codes that have a scale a channel."""
    from onnx import TensorProto, helper

    codes, scale, zero_point = node.input
    result, axis = node.output[0], _attribute(node, "axis")
    shape = [-1 if each == axis else 1 for each in range(rank)] if constants[scale].dims else []
    values = f"{result}/numbers"
    yield helper.make_node("Cast", [codes], [values], values, to=TensorProto.FLOAT)
    if _array(constants[zero_point]).any():
        values, numbers = f"{result}/steps", values
        yield helper.make_node("Sub", [numbers, _shaped(constants, zero_point, shape)], [values], values)
    yield helper.make_node("Mul", [values, _shaped(constants, scale, shape)], [result], result)


def _shaped(constants: dict[str, Any], name: str, shape: list[int]) -> str:
    """The name of a constant of this shape, in floats; a single number where all are the same."""
    from onnx import numpy_helper

    shaped = f"{name}/shaped_{len(shape)}"
    if shaped not in constants:
        values = _array(constants[name])
        same = values.size > 0 and (values == values.flat[0]).all()
        constants[shaped] = numpy_helper.from_array(values.flat[0] if same else values.reshape(shape), shaped)
    return shaped


def _array(constant: Any) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(constant).astype(np.float32)


def _attribute(node: Any, name: str) -> Any:
    """An attribute's value; None where it has its default."""
    from onnx import helper

    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), None)
