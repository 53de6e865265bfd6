"""How onnxruntime runs the layers of an exported file, and why some run in floats."""

from dataclasses import replace

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

import attnround
from attnround.deploy.file import Content, StoredLayer
from attnround.deploy.kernels import Kernel, in_integers, kernels
from attnround.deploy.marked import float_graph
from attnround.deploy.qdq import quantized_graph
from attnround.quantization.activation import ActivationQuantizer


class Net(nn.Module):
    """A layer for each reason to run in floats, and some that run in integers."""

    def __init__(self):
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
        self.silu, self.hard, self.summed, self.beside, self.two, self.own, self.other = (
            nn.Conv2d(8, 8, 1) for _ in range(7)
        )
        self.up, self.shaped = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 8, 1)
        self.linear, self.last = nn.Linear(8, 8), nn.Conv1d(8, 5, 1)

    def forward(self, x):
        x = self.depthwise(self.first(x).relu()).relu()
        x = functional.hardswish(self.hard(functional.silu(self.silu(x))))
        x = self.up(x + self.summed(x))
        x = self.beside(x).relu()
        x = self.two(x) + x
        x = self.own(x).flatten(2).unflatten(2, (8, 8)) + self.other(x)
        return self.last(self.linear(self.shaped(x).flatten(2).mT).mT)


@pytest.fixture(scope="module")
def content() -> tuple[Content, onnx.ModelProto]:
    """Of the quantized network, and the graph of its float operations."""
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8)
    found = attnround.quantize(Net(), images, bits=4, rounding="nearest", activation=8, progress=False)
    return found._content(), float_graph(found.model, 21)


def found_in(layers: list[StoredLayer], graph: onnx.ModelProto) -> dict[str, Kernel]:
    raw = graph.SerializeToString()
    found = kernels(raw, layers, "x")
    assert [each.layer for each in found] == [layer.name for layer in layers]
    assert {each.layer for each in found if each.in_integers} == in_integers(raw, "x")
    assert all((each.why is None) == each.in_integers for each in found)
    return {each.layer: each for each in found}


def test_each_layer_says_what_it_runs_as_and_why_in_floats(content):
    layers = content[0].layers
    found = found_in(layers, quantized_graph(content[1], layers, 21))
    assert {name: each.runs_as for name, each in found.items() if each.in_integers} == {
        "first": "QLinearConv", "depthwise": "QLinearConv", "shaped": "QLinearConv", "linear": "MatMulIntegerToFloat",
    }  # fmt: skip
    assert {name: each.why for name, each in found.items() if not each.in_integers} == {
        "silu": "its result goes into SiLU without a quantizer",
        "hard": "its result goes into HardSwish without a quantizer",
        "summed": "its result goes into Add without a quantizer",
        "up": "onnxruntime has no integer kernel of ConvTranspose",
        "beside": "its result goes into Add beside a quantizer",
        "two": "its result goes into Add without a quantizer",
        "own": "its result goes into Add without a quantizer",
        "other": "its result goes into Add without a quantizer",
        "last": "its result is an output of the network",
    }
    assert found["up"].runs_as == "ConvTranspose"
    assert {each.runs_as for each in found.values() if each.why and each.layer != "up"} <= {"Conv", "FusedConv"}


def test_a_result_with_two_ranges_stays_float(content):
    """Its codes would be of one of them alone."""
    layers = [
        replace(each, activation=ActivationQuantizer(0.125, 2, 8)) if each.name == "depthwise" else each
        for each in content[0].layers
    ]
    graph = quantized_graph(content[1], layers, 21)
    last = next(node for node in graph.graph.node if node.output[0] == "depthwise.input_codes")
    again = onnx.helper.make_node("QuantizeLinear", [last.input[0], "silu.input_scale", last.input[2]], ["again"])
    back = onnx.helper.make_node("DequantizeLinear", ["again", *again.input[1:]], ["back"])
    graph.graph.node.extend([again, back])
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info("back"))
    assert found_in(layers, graph)["first"].why == "its result goes into 2 quantizers"


def test_weights_of_the_literal_form_are_unpacked(content):
    found = found_in(content[0].layers, quantized_graph(content[1], content[0].layers, 21, "literal"))
    assert {found[name].why for name in ("silu", "depthwise")} == {"its weight is unpacked whenever it runs"}


def test_a_float_input_is_the_reason():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    found = attnround.quantize(net, torch.randn(4, 3, 4, 4), bits=4, rounding="nearest", progress=False)
    layers = found._content().layers
    kernels = found_in(layers, quantized_graph(float_graph(found.model, 21), layers, 21))
    assert {name: each.why for name, each in kernels.items()} == dict.fromkeys(("0", "3"), "its input is float")
    assert kernels["3"].runs_as == "Gemm"
    assert kernels["0"].runs_as in ("Conv", "FusedConv")
