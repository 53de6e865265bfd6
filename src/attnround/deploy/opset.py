"""An ONNX graph in another opset than 18, which torch's exporter writes.

onnx's converter goes to any newer one, but for most operators to no older one. There, an operator that came later is
replaced by its definition, as ONNX itself gives it; one that had the same inputs and attributes stays as it is, since
what was added to it are number types; and the few that differ more are rewritten here.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from attnround.errors import InputError, listed, reason

OLDEST = 13  # the first with a scale for each channel
WRITTEN = 18  # by torch's exporter
AXES_IN_AN_ATTRIBUTE = {  # before opset 18
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
}  # fmt: skip
MOST_BYTES = 2**31 - 1  # of a protobuf message
SHAPE_IN_PARTS = 15  # the first whose Shape may give some of the sizes


def in_opset(model: Any, opset: int) -> Any:
    """The model, of opset 18, in another.

    Raises InputError where an operation cannot be written in it, or the model is larger than a file of ONNX can be.
    """
    from onnx import version_converter

    if model.ByteSize() > MOST_BYTES:
        raise InputError(
            f"the float graph has {model.ByteSize() / 2**30:.1f} GiB, and a file of ONNX at most 2: use .pt2, "
            "format=torch"
        )
    if opset < WRITTEN:
        return _older(model, opset)
    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:  # onnx's kinds share no base class
        raise InputError(f"the model cannot be written in opset {opset} ({reason(error)}): try another") from error


def _older(model: Any, opset: int) -> Any:
    from onnx import defs, inliner, numpy_helper

    later = {("", node.op_type) for node in model.graph.node if not (node.domain or defs.has(node.op_type, opset, ""))}
    if later:
        model = inliner.inline_selected_functions(model, sorted(later), inline_schema_functions=True)
    graph, constants = model.graph, _constants(model.graph)
    added: dict[str, np.ndarray] = {}
    before = _taken(graph.node)
    nodes = [each for node in graph.node for each in _rewritten(node, opset, constants, added)]
    unfit = {node.op_type for node in nodes if not (node.domain or _fits(node, opset))}
    if unfit:
        raise InputError(
            f"the model cannot be written in opset {opset}, which has no {listed(sorted(unfit))} as it is needed here: "
            "try another"
        )
    graph.ClearField("node")
    graph.node.extend(nodes)
    left = before - _taken(nodes)  # axes that are attributes now
    kept = [each for each in graph.initializer if each.name not in left]
    graph.ClearField("initializer")
    graph.initializer.extend([*kept, *(numpy_helper.from_array(value, name) for name, value in added.items())])
    for each in model.opset_import:
        each.version = each.version if each.domain else opset
    return model


def _taken(nodes: Iterable[Any]) -> set[str]:
    return {name for node in nodes for name in node.input}


def _constants(graph: Any) -> dict[str, np.ndarray]:
    from onnx import helper, numpy_helper

    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            (value,) = map(helper.get_attribute_value, node.attribute)
            constants[node.output[0]] = numpy_helper.to_array(value) if hasattr(value, "raw_data") else np.array(value)
    return constants


def _rewritten(node: Any, opset: int, constants: dict[str, np.ndarray], added: dict[str, np.ndarray]) -> list[Any]:
    """The node, and what follows it, as older opsets have it. added: takes up constants that are needed for it."""
    from onnx import helper

    if node.op_type == "Shape" and opset < SHAPE_IN_PARTS:
        given = {each.name: each.i for each in node.attribute}
        part, node.output[0] = node.output[0], f"{node.output[0]}.all"
        node.ClearField("attribute")
        ends = {f"{part}.start": given.get("start", 0), f"{part}.end": given.get("end", np.iinfo(np.int64).max)}
        added.update({name: np.array([end]) for name, end in ends.items()})
        return [node, helper.make_node("Slice", [node.output[0], *ends], [part], name=part)]
    if node.op_type == "Reshape":
        _drop(node, "allowzero")  # which says something of empty tensors alone
    elif node.op_type == "Split":
        _drop(node, "num_outputs")  # as many as it has: equal parts
    elif node.op_type in AXES_IN_AN_ATTRIBUTE and len(node.input) == 2 and node.input[1] in constants:
        node.attribute.append(helper.make_attribute("axes", constants[node.input.pop()].tolist()))
    return [node]


def _fits(node: Any, opset: int) -> bool:
    """Whether the opset has the operator with these inputs and attributes; those that say nothing are taken away."""
    from onnx import defs, helper

    if not defs.has(node.op_type, opset, ""):
        return False
    older, newer = (defs.get_schema(node.op_type, version, "") for version in (opset, WRITTEN))
    for each in [each for each in node.attribute if each.name in newer.attributes.keys() - older.attributes.keys()]:
        default = newer.attributes[each.name].default_value
        if default.name and helper.get_attribute_value(each) == helper.get_attribute_value(default):
            _drop(node, each.name)
    return {each.name for each in node.attribute} <= set(older.attributes) and len(node.input) <= older.max_input


def _drop(node: Any, attribute: str) -> None:
    kept = [each for each in node.attribute if each.name != attribute]
    node.ClearField("attribute")
    node.attribute.extend(kept)
