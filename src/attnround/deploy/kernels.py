"""How onnxruntime runs each layer of an exported file by default, and why a layer runs in floats.

Two graphs are read: the one that was written, and the one that onnxruntime makes of it when it loads the file. A layer
runs in integers where an integer kernel of the second takes its levels. Why another does not, the first says:

    its input is float          nothing in the simulation quantizes it
    its weight is unpacked      2 or 4 bits stand before a DequantizeLinear, as in the literal form: it is never folded
    no integer kernel           there are those of convolutions, Gemm and MatMul, not of transposed convolutions
    what takes its result       a convolution's must go into one QuantizeLinear alone, a Relu or Clip at most between; a
                                sum, a SiLU or hard-swish behind it, or the network's output, keeps it in floats

Source: onnxruntime's core/optimizer/qdq_transformer/selectors_actions, as of 1.32.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from attnround.deploy.file import StoredLayer
from attnround.deploy.session import CPU, Provider, optimised_graph

INTEGER_KERNELS = {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearConv", "QLinearMatMul"}
LEVELS = (".levels", ".octets")  # how names of weights end that integer kernels take
WITH_INTEGERS = {"Conv", "Gemm", "MatMul"}  # operators that there are integer kernels of
SHAPING = {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}  # through which codes and weights pass
FUSED = {"Relu", "Clip"}  # what may stand between a convolution and the quantizer of its result
HEADER = ["layer", "runs as", "why in floats"]
COMPOSED = {frozenset({"Sigmoid", "Mul"}): "SiLU", frozenset({"HardSigmoid", "Mul"}): "HardSwish"}


@dataclass(frozen=True)
class Kernel:
    """How a layer runs: as which operator of the optimised graph, in integers or not, and if not why."""

    layer: str
    runs_as: str
    in_integers: bool
    why: str | None = None

    @property
    def cells(self) -> list[str]:
        """What stands under `HEADER`."""
        return [self.layer, self.runs_as, self.why or "-"]


def in_integers(raw: bytes, source: str, provider: Provider = CPU) -> set[str]:
    """The names of the layers that a provider runs in integer kernels, as the graph says that onnxruntime optimised.

    Raises InputError as `session` does.
    """
    return set(_integer(optimised_graph(raw, source, provider).node))


def kernels(raw: bytes, layers: Iterable[StoredLayer], source: str) -> list[Kernel]:
    """How each layer of a file runs on the CPU, in their order. Raises InputError as `session` does."""
    import onnx

    written, optimised = _Written(onnx.load_model_from_string(raw).graph), optimised_graph(raw, source).node
    integer = _integer(optimised)
    taken = {name: node.op_type for node in optimised for name in node.input}
    made = {name: node.op_type for node in optimised for name in node.output}
    found = []
    for layer in layers:
        if layer.name in integer:
            found.append(Kernel(layer.name, integer[layer.name], True))
            continue
        node = written.node_of(layer.name)
        kinds = [taken.get(f"{layer.name}.weight", ""), *(made.get(name, "") for name in written.results(node))]
        runs_as = next((kind for kind in kinds if node.op_type in kind), node.op_type)  # such as FusedConv
        found.append(Kernel(layer.name, runs_as, False, written.why(layer, node)))
    return found


def num_quantized(layers: Iterable[StoredLayer]) -> int:
    """How many layers have quantized inputs, without which none runs in integers."""
    return sum(layer.activation is not None for layer in layers)


def _integer(nodes: Any) -> dict[str, str]:
    """Of the layers in integer kernels, by name, which kernel."""
    taken = ((name, node.op_type) for node in nodes if node.op_type in INTEGER_KERNELS for name in node.input)
    return {name.rpartition(".")[0]: kind for name, kind in taken if name.endswith(LEVELS)}


class _Written:
    """The graph as it was written: who makes a tensor and who takes it."""

    def __init__(self, graph: Any):
        self.outputs = {each.name for each in graph.output}
        self.types = {each.name: each.data_type for each in graph.initializer}
        self.maker = {name: node for node in graph.node for name in node.output}
        self.takers: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.takers[name].append(node)

    def node_of(self, layer: str) -> Any:
        """The operator that takes a layer's weight; the first, where the layer is called several times."""
        (node, *_) = self.takers[f"{layer}.weight"]
        while node.op_type in SHAPING:
            (node, *_) = self.takers[node.output[0]]
        return node

    def results(self, node: Any) -> Iterator[str]:
        """What an operator gives, and what that is behind each activation that may be fused with it."""
        name = node.output[0]
        yield name
        while name not in self.outputs and [each.op_type in FUSED for each in self.takers[name]] == [True]:
            name = self.takers[name][0].output[0]
            yield name

    def why(self, layer: StoredLayer, node: Any) -> str:
        """Why a layer with this operator runs in floats."""
        if layer.activation is None:
            return "its input is float"
        if self._is_unpacked(layer.name):
            return "its weight is unpacked whenever it runs"
        if node.op_type not in WITH_INTEGERS:
            return f"onnxruntime has no integer kernel of {node.op_type}"
        *_, result = self.results(node)
        wrong = self._wrong_takers(result) if node.op_type == "Conv" else None
        return wrong or "onnxruntime leaves it in floats"

    def _is_unpacked(self, layer: str) -> bool:
        """Whether what its DequantizeLinear takes is stored in fewer than 8 bits."""
        from onnx import TensorProto

        codes = self.maker[f"{layer}.weight"].input[0]
        return codes in self.types and self.types[codes] not in (TensorProto.INT8, TensorProto.UINT8)

    def _wrong_takers(self, result: str) -> str | None:
        """What keeps the convolution with this result from giving codes; None where one quantizer alone takes it."""
        if result in self.outputs:
            return "its result is an output of the network"
        kinds = self._takers(result)
        others = frozenset(kinds) - {"QuantizeLinear"}
        if not others:
            return f"its result goes into {len(kinds)} quantizers" if len(kinds) > 1 else None
        named = COMPOSED.get(others) or " and ".join(sorted(others))
        beside = "" if len(others) == len(frozenset(kinds)) else " beside a quantizer"
        return f"its result goes into {named}{beside or ' without a quantizer'}"

    def _takers(self, result: str) -> list[str]:
        """The operators that take a result, or take it in another shape."""
        kinds: list[str] = []
        for node in self.takers[result]:
            kinds += self._takers(node.output[0]) if node.op_type in SHAPING else [node.op_type]
        return kinds
