"""What another tool has changed in an exported ONNX file, as far as it can be told from the run that it came from."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from attnround.deploy.file import Content, StoredLayer
from attnround.deploy.seal import ENTRY
from attnround.errors import listed
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.ranges import middle

PRODUCER = "pytorch"  # whose exporter writes the float part


def changes(model: Any, content: Content) -> list[str]:
    """What differs in an ONNX model from the integers of its run and from what an export writes, in words."""
    found = []
    if model.producer_name != PRODUCER:
        found.append(f"it was written by {model.producer_name or 'a program without name'} {model.producer_version}")
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain})
    if foreign:
        found.append(f"it has the operators {', '.join(foreign)}")
    if ENTRY not in {each.key for each in model.metadata_props}:
        found.append("it does not say any more what it is")
    constants = {each.name: each for each in model.graph.initializer}
    differing = [name for layer in content.layers for name in _differing(constants, layer)]
    quantizers = {layer.name: layer.activation for layer in content.layers if layer.activation} | content.edges
    differing += [name for each, found in quantizers.items() for name in _requantized(constants, each, found)]
    missing = [name for name in differing if name not in constants]
    changed = [name for name in differing if name in constants]
    found += [
        f"{what} {listed(names)}" for what, names in (("it lacks", missing), ("it has another", changed)) if names
    ]
    return found


def _differing(constants: dict[str, Any], layer: StoredLayer) -> Iterator[str]:
    """The names of a layer's constants that are not there, or not those of the run."""
    from onnx import TensorProto, numpy_helper

    def values(part: str) -> np.ndarray:
        return numpy_helper.to_array(constants[f"{layer.name}.{part}"]).astype(np.float32)

    levels, name = layer.levels.numpy().astype(np.float32), f"{layer.name}.levels"
    if name not in constants:
        yield name
    else:
        is_shifted = layer.grid.symmetric and constants[name].data_type == TensorProto.UINT8
        held = values("levels") - (128 if is_shifted else 0)
        if not any(np.array_equal(held, each) for each in (levels, levels.T)):
            yield name
        if f"{layer.name}.zero_point" in constants:
            zeros = layer.zero_point.numpy() + (128 if is_shifted else 0)
            if not np.array_equal(values("zero_point").reshape(-1), zeros):
                yield f"{layer.name}.zero_point"
    for part, expected in (("scale", layer.scale), ("bias", layer.bias)):
        name = f"{layer.name}.{part}"
        if name not in constants and part == "bias" and not expected.any():
            continue  # the exporter leaves such a bias out
        if name not in constants or not np.array_equal(values(part).reshape(-1), expected.numpy()):
            yield name


def _requantized(constants: dict[str, Any], name: str, quantizer: ActivationQuantizer) -> Iterator[str]:
    """The names of an input's scale and zero point that are not those of the run; inputs that are one share theirs."""
    from onnx import TensorProto, numpy_helper

    for part, expected in (("input_scale", quantizer.scale.item()), ("input_zero_point", quantizer.zero_point)):
        held = constants.get(f"{name}.{part}")
        if held is not None and held.data_type == TensorProto.INT8:  # codes less their middle
            expected -= middle(quantizer.grid)
        if held is not None and numpy_helper.to_array(held).item() != expected:
            yield held.name
