"""What is changed in an ONNX graph before OpenVINO reads it, so that the IR has few operations and a short .xml.

OpenVINO's reader shapes the bias of a convolution, and the scales and zero points of a DequantizeLinear, by operations
of their own. Here they come as constants that have their shape, and zero points that are zero do not come at all.

OpenVINO 2026.4's default options take the zero points of a transposed convolution's weight along the wrong axis, where
they find Convert, Subtract, Multiply. There the negative is added, which computes the same and is no such pattern.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np


def slim(graph: Any) -> None:
    """Take constant biases of convolutions, and DequantizeLinear operations, apart.

    A convolution keeps its name, and the sum behind it the name of the result; so does what a DequantizeLinear becomes.
    """
    constants = {each.name: each for each in graph.initializer}
    added: dict[str, Any] = {}
    ranks = {name: len(each.dims) for name, each in constants.items()}
    turned = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    weights = [node.input[1] for node in graph.node if node.op_type == "ConvTranspose"]
    of_transposed = {turned.get(name, name) for name in weights}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in ranks:
            ranks[node.output[0]] = ranks[node.input[0]]
        strides = _attribute(node, "strides", ())
        if node.op_type == "Conv" and strides and len(node.input) > 2 and node.input[2] in constants:
            nodes.extend(_without_bias(node, [1, -1, *[1] * len(strides)], constants, added))
        elif node.op_type == "DequantizeLinear":
            sign = -1 if node.output[0] in of_transposed else 1
            nodes.extend(_apart(node, ranks.get(node.input[0], 0), sign, constants, added))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added.values())


def _without_bias(node: Any, shape: list[int], constants: dict[str, Any], added: dict[str, Any]) -> Iterator[Any]:
    """A convolution, and the sum of its result and its bias, which gets this shape."""
    from onnx import helper

    bias, result = node.input.pop(), node.output[0]
    node.output[0] = f"{result}/without_bias"
    yield node
    shaped = _shaped(constants[bias], shape, added)
    yield helper.make_node("Add", [node.output[0], shaped], [result], f"{node.name}/bias")


def _apart(node: Any, rank: int, sign: int, constants: dict[str, Any], added: dict[str, Any]) -> Iterator[Any]:
    """(codes - zero point) * scale in floats.

    rank: of codes that have a scale a channel; sign: 1 to subtract the zero point, -1 to add its negative.
    """
    from onnx import TensorProto, helper

    codes, (scale, zero_point) = node.input[0], (constants[name] for name in node.input[1:])
    result, axis = node.output[0], _attribute(node, "axis", 1)
    shape = [-1 if each == axis else 1 for each in range(rank)] if scale.dims else []
    values = f"{result}/numbers"
    yield helper.make_node("Cast", [codes], [values], values, to=TensorProto.FLOAT)
    if _array(zero_point).any():
        values, numbers = f"{result}/steps", values
        shaped = _shaped(zero_point, shape, added, sign)
        yield helper.make_node("Sub" if sign > 0 else "Add", [numbers, shaped], [values], values)
    yield helper.make_node("Mul", [values, _shaped(scale, shape, added)], [result], result)


def _shaped(constant: Any, shape: list[int], added: dict[str, Any], sign: int = 1) -> str:
    """The name of a constant times the sign in this shape, in floats; a single number where all are the same.

    added: takes it up.
    """
    from onnx import numpy_helper

    name = f"{constant.name}/shaped_{len(shape)}{'_negative' if sign < 0 else ''}"
    if name not in added:
        values = sign * _array(constant)
        same = values.size > 0 and (values == values.flat[0]).all()
        added[name] = numpy_helper.from_array(values.flat[0] if same else values.reshape(shape), name)
    return name


def _array(constant: Any) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(constant).astype(np.float32)


def _attribute(node: Any, name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)
