"""A quantized model as an ONNX graph in QDQ form: integers where they are stored, float operations between.

    weight   levels (an initializer in the narrowest type that holds them) -> DequantizeLinear, a scale a channel
    input    QuantizeLinear -> uint8 codes [-> Clip to 0..2^b-1 below 8 bits] -> DequantizeLinear

These two operators compute what `dequantize` and `ActivationQuantizer` do, in float32 and in the same order. The float
operations come from torch's exporter by tracing, the one that writes opset 13 too; its constants are then replaced.

Source: the operators' definitions, https://onnx.ai/onnx/operators/ (INT4 since opset 21, INT2 since 25).
"""

import copy
import io
import warnings
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attnround.deploy.file import StoredLayer
from attnround.errors import InputError, listed, reason
from attnround.graph import Captured, tensors
from attnround.graph.kinds import KINDS
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.layers import quantized_layers

OLDEST = 13  # the first with a scale for each channel
NARROW = {2: 25, 4: 21}  # bits of a storage type: the opset that brought it
OPERATORS = {operator for kind in KINDS for operator in kind.onnx}
TRACED = 20  # the newest that torch's tracing exporter writes
FUSED_ATTENTION = 14  # the first in which scaled_dot_product_attention can be written


def storage_bits(bit_width: int, opset: int) -> int:
    """Bits of the narrowest type of an opset that holds a level: 2, 4 or 8.

    >>> storage_bits(3, 21), storage_bits(2, 21), storage_bits(2, 25), storage_bits(2, 13)
    (4, 4, 2, 8)
    """
    return next((bits for bits, since in NARROW.items() if bit_width <= bits and opset >= since), 8)


def wanted_opset(layers: list[StoredLayer]) -> int:
    """The oldest opset with INT4, and with INT2 where a layer has 2 bits."""
    return NARROW[2] if any(layer.grid.bit_width == 2 for layer in layers) else NARROW[4]


def float_graph(model: nn.Module, opset: int) -> Any:
    """The ONNX model of a quantized model's float operations: images [batch, C, H, W] -> logits, dequantized weights.

    Of a model that gives several tensors each is an output under its key.

    Raises InputError where an operation cannot be written in this opset.
    """
    import onnx
    from onnx import numpy_helper, version_converter

    net = model.returning_tensors() if isinstance(model, Captured) else copy.deepcopy(model)
    images, weights = torch.zeros(2, *model.preprocessing["input_size"]), {}
    for i, (name, layer) in enumerate(quantized_layers(net).items()):
        net.set_submodule(name, layer.layer)
        weights[f"{name}.weight"] = layer.layer.weight.detach().numpy().copy()
        layer.layer.weight.detach().view(-1)[0] = i  # the exporter merges equal tensors: no two may be
    if opset < FUSED_ATTENTION and isinstance(net, Captured):
        for node in net.graph.nodes:
            if node.target is torch.ops.aten.scaled_dot_product_attention.default:
                node.target = _attention
        net.compile_graph()
    with torch.no_grad():
        names = [name or "logits" for name in tensors(model(images))]
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its age, and of sizes that become constants: a run compares the logits
            torch.onnx.export(
                net, (images,), file, dynamo=False,
                opset_version=min(opset, TRACED), do_constant_folding=False, input_names=["images"],
                output_names=names, dynamic_axes={name: {0: "batch"} for name in ("images", *names)},
            )  # fmt: skip
        graph = onnx.load_from_string(file.getvalue())
        graph = version_converter.convert_version(graph, opset) if opset > TRACED else graph
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise InputError(
            f"the model cannot be written in opset {opset} ({reason(error)}): try another opset"
        ) from error
    graph.ir_version = onnx.helper.find_min_ir_version_for(graph.opset_import)
    for constant in graph.graph.initializer:
        if constant.name in weights:
            constant.CopyFrom(numpy_helper.from_array(weights[constant.name], constant.name))
    return graph


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0, causal: bool = False,
    *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """scaled_dot_product_attention [N, heads, tokens, n] in the operations that it consists of."""
    if causal or enable_gqa:
        raise RuntimeError("causal and grouped attention have no form in so old an opset")
    scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.transpose(-2, -1)
    return (scores if mask is None else scores + mask).softmax(-1) @ value


def quantized_graph(floats: Any, layers: list[StoredLayer], opset: int) -> Any:
    """The graph of `float_graph` with the stored layers' integers in the place of their weights."""
    import onnx

    model = copy.deepcopy(floats)
    stored = {f"{layer.name}.weight": layer for layer in layers}
    names = dict(zip(stored, stored, strict=True))  # of a tensor -> of the weight that it is, as stored or transposed
    quantized, rearranged, written = _Quantized(opset), set(), set()
    for node in model.graph.node:
        weight = next((name for name in node.input if name in names), None)
        if weight is None:
            quantized.nodes.append(node)
            continue
        layer = stored[names[weight]]
        if node.op_type in OPERATORS and weight == node.input[1]:
            if layer.activation is not None:
                node.input[0] = quantized.input(node.input[0], layer.name, layer.activation)
            if weight not in rearranged:
                node.input[1] = quantized.weight(layer, transposed=node.op_type == "MatMul")
            written.add(layer.name)
        else:  # its weight is put in another order first
            names[node.output[0]] = names[weight]
            if layer.levels.ndim == 2:  # transposed before MatMul: stored so instead
                continue
            if weight not in rearranged:
                node.input[0] = quantized.weight(layer, transposed=False)
            rearranged.add(node.output[0])
        quantized.nodes.append(node)
    missing = [layer.name for layer in layers if layer.name not in written]
    if missing:
        raise InputError(f"torch's exporter left no weight for {listed(missing)}: this model cannot be exported")
    kept = [each for each in model.graph.initializer if each.name not in names]
    model.graph.ClearField("node")
    model.graph.node.extend(quantized.nodes)
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(kept + quantized.constants)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Quantized:
    """Nodes and constants as they come, and which inputs are quantized already."""

    def __init__(self, opset: int):
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: dict[tuple, str] = {}
        self.num_inputs: Counter[str] = Counter()  # layer name -> tensors that it quantizes
        self.weights: set[str] = set()  # that have their nodes
        self.orders: dict[str, bool] = {}  # layer name -> whether its first call takes the weight transposed

    def weight(self, layer: StoredLayer, transposed: bool) -> str:
        """The dequantized weight. Calls of one layer share it where they take it in the same order."""
        same_order = self.orders.setdefault(layer.name, transposed) == transposed
        name = layer.name if same_order else f"{layer.name}.reordered"
        if name in self.weights:
            return f"{name}.weight"
        self.weights.add(name)
        bits, signed = storage_bits(layer.grid.bit_width, self.opset), layer.grid.symmetric
        levels = layer.levels.T if transposed else layer.levels
        inputs = [
            self._integers(f"{name}.levels", levels, bits, signed),
            self._floats(f"{name}.scale", layer.scale),
            # zeros too: without, onnxruntime 1.32 puts in a scalar that it then refuses (before Gemm)
            self._integers(f"{name}.zero_point", layer.zero_point, bits, signed),
        ]
        return self._node("DequantizeLinear", inputs, f"{name}.weight", axis=1 if transposed else 0)

    def input(self, tensor: str, name: str, activation: ActivationQuantizer) -> str:
        """Quantize a layer's input; layers that quantize one tensor in the same way share the nodes."""
        key = (tensor, activation.scale.item(), activation.zero_point, activation.bit_width)
        if key not in self.inputs:
            self.num_inputs[name] += 1
            name += f".call_{self.num_inputs[name]}" if self.num_inputs[name] > 1 else ""
            zero = torch.tensor(activation.zero_point)
            grid = [
                self._floats(f"{name}.input_scale", activation.scale),
                self._integers(f"{name}.input_zero_point", zero, 8, False),
            ]
            codes = self._node("QuantizeLinear", [tensor, *grid], f"{name}.input_codes")
            if activation.bit_width < 8:
                ends = [("lowest", activation.grid.qmin), ("highest", activation.grid.qmax)]
                clip = [self._integers(f"{name}.input_{end}", torch.tensor(code), 8, False) for end, code in ends]
                codes = self._node("Clip", [codes, *clip], f"{name}.input_clipped")
            self.inputs[key] = self._node("DequantizeLinear", [codes, *grid], f"{name}.input")
        return self.inputs[key]

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _floats(self, name: str, values: Tensor) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(values.detach().numpy(), name))
        return name

    def _integers(self, name: str, values: Tensor, bits: int, signed: bool) -> str:
        from onnx import TensorProto, helper

        kind = getattr(TensorProto, f"{'INT' if signed else 'UINT'}{bits}")
        self.constants.append(helper.make_tensor(name, kind, values.shape, packed(values, bits), raw=True))
        return name


def packed(values: Tensor, bits: int) -> bytes:
    """Integers in two's complement of 2, 4 or 8 bits, the first in the lowest bits of a byte, as ONNX packs them."""
    octets = values.to(torch.int16).numpy().astype(np.uint8).reshape(-1, 1)  # the low eight bits
    stream = np.unpackbits(octets, axis=1, count=bits, bitorder="little")
    return np.packbits(stream.reshape(-1), bitorder="little").tobytes()
