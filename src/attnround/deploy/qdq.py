"""A quantized model as an ONNX graph in QDQ form: integers where they are stored, float operations between.

    weight   levels, an initializer in the narrowest type that holds them
             where the input is quantized: [-> Cast to 8 bits] -> DequantizeLinear, a scale a channel
             where it is float: -> Cast to float [-> Sub of the zero point] -> Mul by the scale
    input    QuantizeLinear -> uint8 codes [-> Clip to 0..2^b-1 below 8 bits] -> DequantizeLinear

All of it computes what `dequantize` and `ActivationQuantizer` do, in float32 and in the same order. onnxruntime folds
Cast, Sub and Mul of constants when it loads a file, and never a DequantizeLinear; its integer kernels take weights of
8 bits. So the file is as small as its types, and what runs is integer kernels or plain float weights. Signed weights of
all 8 bits that meet codes are stored as UINT8, levels + 128 with the zero point 128: on processors without VNNI both
onnxruntime and OpenVINO add two products of a code and a signed weight in 16 bits, which overflow from 8 bits on,
without a word. Processors with VNNI have no such sums, and run signed weights more than twice as fast: the signed form
is for them. OpenVINO runs UINT8 weights in floats.

In the literal form every weight is a DequantizeLinear of its levels. In both, what a Gemm of codes gives has its bias
added by an Add, since onnxruntime runs a Gemm with a float bias in floats.

Source: the operators' definitions, https://onnx.ai/onnx/operators/ (INT4 since opset 21, INT2 since 25).
"""

import copy
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnround.deploy.file import StoredLayer
from attnround.deploy.marked import DOMAIN
from attnround.errors import InputError, choice, listed, reason
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.ranges import SYMMETRIC, middle

NARROW = {2: 25, 4: 21}  # bits of a storage type: the opset that brought it
FORMS = ("runtime", "signed", "literal")  # of the weights
FORMS_OF = {".onnx": FORMS, ".xml": FORMS[:2], ".pt2": FORMS[:1]}  # those that files have, by the ends of their names


def storage_bits(bit_width: int, opset: int) -> int:
    """Bits of the narrowest type of an opset that holds a level: 2, 4 or 8.

    >>> storage_bits(3, 21), storage_bits(2, 21), storage_bits(2, 25), storage_bits(2, 13)
    (4, 4, 2, 8)
    """
    return next((bits for bits, since in NARROW.items() if bit_width <= bits and opset >= since), 8)


def wanted_opset(layers: list[StoredLayer]) -> int:
    """The oldest opset with INT4, and with INT2 where a layer has 2 bits."""
    return NARROW[2] if any(layer.grid.bit_width == 2 for layer in layers) else NARROW[4]


def check_form(weights: str, suffix: str) -> None:
    """Raise InputError where files whose names end so have no such form of weights."""
    if weights not in FORMS_OF[suffix]:
        raise InputError(f"weights={weights}: give {' or '.join(FORMS_OF[suffix])} for a {suffix} file")


def wanted_form(weights: str, placement: str) -> str:
    """The form of weights in a file. weights: of `FORMS`; the runtime's own is signed where values are quantized so."""
    if weights not in FORMS:
        raise InputError(choice("weights", weights, FORMS))
    return "signed" if weights == "runtime" and placement in SYMMETRIC else weights


def shifted(layer: StoredLayer, form: str) -> bool:
    """Whether a form stores a layer's signed levels as unsigned ones: all 8 bits, with a quantized input."""
    is_whole = layer.grid.symmetric and layer.grid.bit_width == 8
    return form == "runtime" and is_whole and layer.activation is not None


def quantized_graph(
    floats: Any,
    layers: list[StoredLayer],
    opset: int,
    weights: str = "runtime",
    edges: Mapping[str, ActivationQuantizer] | None = None,
    placement: str = "inputs",
) -> Any:
    """The graph of `float_graph` with the stored layers' integers, and their inputs' codes, in the places of the marks.

    weights: one of `FORMS`; edges: by name, the quantizers of values between layers; placement: which those are: the
    codes of one that is of `SYMMETRIC` are signed, without a zero point.
    """
    import onnx

    model = copy.deepcopy(floats)
    graph = model.graph
    takers, zeros = _takers(graph.node), _zeros(graph.initializer)
    quantized = _Quantized(layers, edges or {}, takers, zeros, opset, weights, placement in SYMMETRIC)
    for node in graph.node:
        quantized.take(node)
    missing = [layer.name for layer in layers if layer.name not in quantized.weights]
    if missing:
        raise InputError(f"torch's exporter left no weight for {listed(missing)}: this model cannot be exported")
    kept = [each for each in graph.initializer if each.name not in quantized.replaced]
    nodes = quantized.needed([each.name for each in graph.output])
    for field, values in (("node", nodes), ("initializer", kept + quantized.constants)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    for field in ("functions", "opset_import"):
        model.ClearField(field)
    model.opset_import.append(onnx.helper.make_opsetid("", opset))
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # its kinds share no base class
        raise InputError(f"the model cannot be written as ONNX: {reason(error)}; float32 throughout can be") from error
    return model


def _said(mark: Any) -> tuple[str, str]:
    """The layer of a mark, and which part of it is marked."""
    said = {each.name: each.s.decode() for each in mark.attribute}
    return said["layer"], said["part"]


def _takers(nodes: Any) -> dict[str, set[str]]:
    """Of each layer, by name, the operators that take its weight."""
    marks = {node.output[0]: _said(node) for node in nodes if node.domain == DOMAIN}
    takers = defaultdict(set)
    for node in nodes:
        for layer, part in (marks[name] for name in node.input if name in marks):
            if part == "weight":
                takers[layer].add(node.op_type)
    return takers


def _zeros(constants: Any) -> set[str]:
    """The names of those that are a single zero."""
    from onnx import numpy_helper

    return {each.name for each in constants if not each.dims and not numpy_helper.to_array(each).any()}


def _pads_zeros(node: Any, zeros: set[str]) -> bool:
    modes = {each.s for each in node.attribute if each.name == "mode"}
    value = node.input[2] if len(node.input) > 2 else ""
    return node.op_type == "Pad" and modes <= {b"constant"} and (not value or value in zeros)


class _Quantized:
    """Nodes and constants as they come, with the marks replaced, and what is quantized already."""

    def __init__(
        self,
        layers: list[StoredLayer],
        edges: Mapping[str, ActivationQuantizer],
        takers: dict[str, set[str]],
        zeros: set[str],
        opset: int,
        form: str,
        signed_codes: bool,
    ):
        self.layers, self.takers = {layer.name: layer for layer in layers}, takers
        self.quantizers = {layer.name: layer.activation for layer in layers} | dict(edges)
        self.opset, self.form, self.zeros, self.signed_codes = opset, form, zeros, signed_codes
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.instead: dict[str, str] = {}  # of a tensor that goes: which takes its place
        self.replaced: set[str] = set()  # the float weights
        self.weights: dict[str, str] = {}  # layer name -> its weight
        self.turned: set[str] = set()  # weights that are stored transposed
        self.inputs: dict[tuple, str] = {}
        self.codes: dict[str, tuple] = {}  # quantized tensor -> how
        self.pads: dict[str, Any] = {}  # result of a Pad with zeros -> the node
        self.num_inputs: Counter[str] = Counter()  # layer or edge -> tensors that it quantizes

    def take(self, node: Any) -> None:
        """The next node of the marked graph."""
        inputs = [self.instead.get(name, name) for name in node.input]
        if node.domain == DOMAIN:
            name, part = _said(node)
            if part == "input":
                self.instead[node.output[0]] = self.input(inputs[0], name, self.quantizers[name])
            else:
                self.replaced.add(inputs[0])
                self.instead[node.output[0]] = self.weight(self.layers[name])
        elif node.op_type == "Transpose" and inputs[0] in self.turned:
            self.instead[node.output[0]] = inputs[0]
        else:
            node.ClearField("input")
            node.input.extend(inputs)
            self.nodes.append(node)
            if _pads_zeros(node, self.zeros):
                self.pads[node.output[0]] = node
            if node.op_type == "Gemm" and inputs[0] in self.codes:
                self._add_bias(node)

    def _add_bias(self, gemm: Any) -> None:
        """Take a Gemm's bias out of it, to be added behind it."""
        if len(gemm.input) == 3:
            bias, result = gemm.input.pop(), gemm.output[0]
            gemm.output[0] = f"{result}.product"
            self._node("Add", [gemm.output[0], bias], result)

    def weight(self, layer: StoredLayer) -> str:
        """A layer's weight, transposed where it is two-dimensional and every operator that takes it is a Transpose."""
        if layer.name not in self.weights:
            turned = layer.levels.ndim == 2 and self.takers[layer.name] == {"Transpose"}
            self.weights[layer.name] = self._weight(layer, turned)
            if turned:
                self.turned.add(self.weights[layer.name])
        return self.weights[layer.name]

    def _weight(self, layer: StoredLayer, turned: bool) -> str:
        weight, axis = f"{layer.name}.weight", 1 if turned else 0
        bits, signed = storage_bits(layer.grid.bit_width, self.opset), layer.grid.symmetric
        levels, zero_point = layer.levels.T if turned else layer.levels, layer.zero_point
        if shifted(layer, self.form):
            levels, zero_point, signed = levels.to(torch.int16) + 128, zero_point + 128, False
        codes = self._integers(f"{layer.name}.levels", levels, bits, signed)
        if layer.activation is None and self.form != "literal":
            return self._folded(layer, codes, axis)
        if bits < 8 and self.form != "literal":
            bits, codes = 8, self._cast(codes, f"{layer.name}.octets", f"{'INT' if signed else 'UINT'}8")
        # zeros too: without, onnxruntime 1.32 puts in a scalar that it then refuses (before Gemm)
        zeros = self._integers(f"{layer.name}.zero_point", zero_point, bits, signed)
        scale = self._floats(f"{layer.name}.scale", layer.scale)
        return self._node("DequantizeLinear", [codes, scale, zeros], weight, axis=axis)

    def _folded(self, layer: StoredLayer, codes: str, axis: int) -> str:
        """The weight in operations that onnxruntime computes once, when it loads the file."""
        shape = [-1 if i == axis else 1 for i in range(layer.levels.ndim)]
        values = self._cast(codes, f"{layer.name}.numbers", "FLOAT")
        if not layer.grid.symmetric:
            zeros = self._floats(f"{layer.name}.zero_point", layer.zero_point.reshape(shape))
            values = self._node("Sub", [values, zeros], f"{layer.name}.steps")
        scale = self._floats(f"{layer.name}.scale", layer.scale.reshape(shape))
        return self._node("Mul", [values, scale], f"{layer.name}.weight")

    def input(self, tensor: str, name: str, activation: ActivationQuantizer) -> str:
        """Quantize a layer's input, or an edge's; what quantizes one tensor in the same way shares the nodes."""
        how = (activation.scale.item(), activation.zero_point, activation.bit_width)
        if self.codes.get(tensor) == how:
            return tensor
        if tensor in self.pads:
            return self._padded(tensor, name, activation, how)
        key = (tensor, *how)
        if key not in self.inputs:
            self.num_inputs[name] += 1
            name += f".call_{self.num_inputs[name]}" if self.num_inputs[name] > 1 else ""
            signed = self.signed_codes and activation.zero_point == middle(activation.grid)
            zero = torch.tensor(0 if signed else activation.zero_point)
            grid = [
                self._floats(f"{name}.input_scale", activation.scale),
                self._integers(f"{name}.input_zero_point", zero, 8, signed),
            ]
            if signed and activation.bit_width < 8:  # of floats, since TensorRT clips no integers
                lowest, highest = (activation.scale * level for level in activation.levels)
                limits = [self._floats(f"{name}.input_lowest", lowest), self._floats(f"{name}.input_highest", highest)]
                tensor = self._node("Clip", [tensor, *limits], f"{name}.input_clipped")
            codes = self._node("QuantizeLinear", [tensor, *grid], f"{name}.input_codes")
            if activation.bit_width < 8 and not signed:
                ends = [("lowest", activation.grid.qmin), ("highest", activation.grid.qmax)]
                clip = [self._integers(f"{name}.input_{end}", torch.tensor(code), 8, False) for end, code in ends]
                codes = self._node("Clip", [codes, *clip], f"{name}.input_clipped")
            self.inputs[key] = self._node("DequantizeLinear", [codes, *grid], f"{name}.input")
            self.codes[self.inputs[key]] = how
        return self.inputs[key]

    def _padded(self, tensor: str, name: str, activation: ActivationQuantizer, how: tuple) -> str:
        """The same for the result of a Pad with zeros, which have codes: what is padded is quantized in its place.

        So runtimes see quantizers at both ends of the operation before it, and make the Pad a part of a convolution.
        """
        before, key = self.pads[tensor].input[0], (tensor, *how)
        if self.codes.get(before) == how:
            return tensor
        if key not in self.inputs:
            values = self.input(before, name, activation)
            self.inputs[key] = f"{values}_padded"
            pad = copy.deepcopy(self.pads[tensor])
            pad.name = pad.output[0] = self.inputs[key]
            pad.input[0] = values
            self.nodes.append(pad)
        return self.inputs[key]

    def needed(self, outputs: Sequence[str]) -> list[Any]:
        """The nodes, but for a Pad that nothing takes any more; an output that is quantized gets its name back."""
        for name in outputs:
            if name in self.instead:
                self._node("Identity", [self.instead[name]], name)
        taken = {name for node in self.nodes for name in node.input} | set(outputs)
        return [node for node in self.nodes if node.output[0] in taken or node.output[0] not in self.pads]

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _cast(self, tensor: str, output: str, kind: str) -> str:
        from onnx import TensorProto

        return self._node("Cast", [tensor], output, to=getattr(TensorProto, kind))

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
