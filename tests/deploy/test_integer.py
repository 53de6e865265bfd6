"""Integer layers against plain Python integers and int64, and the proof on whole networks."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import Residual
from tests.deploy.conftest import exported, images_for, quantized
from torch import nn

from attnround.deploy.file import StoredLayer
from attnround.deploy.integer import IntegerLayer
from attnround.deploy.proof import prove
from attnround.deploy.report import findings, layer_table, verdict
from attnround.graph import capture
from attnround.graph.kinds import TransposedConv, kind_of
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.grid import BIT_WIDTHS, Grid
from attnround.quantization.layers import QuantizedLayer, quantized_edges, quantized_layers
from attnround.quantization.observer import ClipSearch

LAYERS = {
    "conv": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "no bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "strided": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "dilated": lambda: nn.Conv2d(4, 6, 3, dilation=2, padding=2),
    "oblong": lambda: nn.Conv2d(4, 6, (1, 3), stride=(2, 1), padding=(0, 1)),
    "pointwise": lambda: nn.Conv2d(4, 6, 1),
    "grouped": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "two a channel": lambda: nn.Conv2d(4, 8, 5, padding=2, groups=4),
    "padding=same": lambda: nn.Conv2d(4, 6, 3, dilation=2, padding="same"),
    "linear": lambda: nn.Linear(7, 5),
    "one dimension": lambda: nn.Conv1d(4, 6, 3, padding=1, stride=2),
    "three dimensions": lambda: nn.Conv3d(4, 6, (1, 3, 2), padding=(0, 1, 1), groups=2),
    "transposed": lambda: TransposedConv(4, 6, (3, 2), (2, 1), (1, 0), (1, 0), groups=2),
}


def layer_of(kind: str, bits: int, input_bits: int, symmetric: bool, zero_point: int = 3) -> QuantizedLayer:
    torch.manual_seed(bits)
    inner = LAYERS[kind]()
    grid = Grid(bits, symmetric)
    layer = QuantizedLayer(inner, grid, *ClipSearch(num_candidates=4, symmetric=symmetric).search(inner.weight, grid))
    layer.activation = ActivationQuantizer(0.07, zero_point, input_bits)
    return layer


def codes_of(layer: QuantizedLayer, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dims = getattr(kind_of(layer.layer), "dims", 0)
    shape = [(2, 3, 7), (2, 4, 9), (2, 4, 6, 7), (2, 4, 3, 5, 6)][dims]
    return torch.randint(0, layer.activation.grid.qmax + 1, shape, generator=generator).to(torch.uint8)


kinds, widths, input_widths = st.sampled_from(sorted(LAYERS)), st.sampled_from(BIT_WIDTHS), st.integers(2, 8)


@given(kinds, widths, input_widths, st.booleans(), st.integers(0, 99))
@torch.no_grad()
def test_the_sums_are_those_of_torch_in_float64_and_of_int64(kind, bits, input_bits, symmetric, seed):
    layer = layer_of(kind, bits, input_bits, symmetric)
    integer, codes = IntegerLayer(layer), codes_of(layer, seed)
    exact = copy.deepcopy(layer.layer).double()
    exact.weight.copy_(layer.levels.double() - layer.zero_point.double().reshape(-1, *[1] * (exact.weight.ndim - 1)))
    exact.bias.zero_()
    sums = integer.accumulate(codes)
    assert torch.equal(sums.double(), exact(codes.double() - layer.activation.zero_point))
    assert sums.abs().max() <= integer.bound
    assert integer.witness(codes)


@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_a_layer_gives_what_its_simulation_does(kind):
    layer = layer_of(kind, 4, 8, True)
    x = layer.activation.decode(codes_of(layer, 0)) + 0.01
    for _ in range(2):
        expected = layer(x)
        eps = torch.finfo(torch.float32).eps * expected.abs().max()  # of float32 sums, which cancel to small values too
        assert (IntegerLayer(layer)(x) - expected).abs().max() <= 8 * eps
        layer.activation = None


def test_the_accumulator_is_as_wide_as_the_bound_asks():
    def wide(num_inputs: int) -> IntegerLayer:
        layer = QuantizedLayer(nn.Linear(num_inputs, 1), Grid(8), torch.ones(1), torch.zeros(1))
        layer.bake(torch.full((1, num_inputs), -128))
        layer.activation = ActivationQuantizer(1.0, 0, 8)
        return IntegerLayer(layer)

    most = (2**31 - 1) // (255 * 128)
    codes = torch.full((1, most + 1), 255, dtype=torch.uint8)
    assert wide(most).accumulator == torch.int32
    assert wide(most + 1).accumulator == torch.int64
    assert wide(most + 1).accumulate(codes).item() == -(most + 1) * 255 * 128
    assert wide(most + 1).witness(codes)
    assert wide(2**24 // (255 * 128)).carried.dtype == torch.float32
    assert wide(2**24 // (255 * 128) + 1).carried.dtype == torch.float64


def stored(model: nn.Module) -> list[StoredLayer]:
    return [
        StoredLayer(name, each.grid, each.levels.clone(), each.scale, each.zero_point, each.layer.bias, each.activation)
        for name, each in quantized_layers(model).items()
    ]


def proof_of(model: nn.Module, count: int = 12):
    images = images_for(model, count, seed=2)
    return prove(model, stored(model), [(images, torch.zeros(count).long())], batch_size=5)


@pytest.fixture
def residual():
    torch.manual_seed(0)
    model = capture(Residual(), torch.zeros(1, 3, 16, 16))
    model.preprocessing = {"input_size": [3, 12, 12]}
    return quantized(model, "inputs")


@pytest.mark.parametrize("name", ["residual", "resnet", "resnet between layers", "efficientnet", "vit"])
def test_a_network_is_proven(name, residual):
    model = residual if name == "residual" else exported(name)[0]
    proof = proof_of(model)
    assert proof.faults == []
    assert proof.network.images == 12
    assert proof.network.agreeing == 12 - len(proof.disagreeing)
    assert all(layer.codes and layer.witnessed and layer.accumulator == "int32" for layer in proof.layers)
    if not any(layer.codes_differing for layer in proof.layers):
        assert proof.network.logit_difference <= 1e-5 * proof.network.largest_logit
        assert proof.network.agreeing == 12
    assert "every quantized layer is proven" in verdict(proof, [])
    assert layer_table(proof).count("W") >= len(proof.layers)
    edges = quantized_edges(model)
    assert [each.name for each in proof.edges] == list(edges)
    assert all(each.codes for each in proof.edges)
    assert (f"{len(edges)} values between layers" in verdict(proof, [])) == bool(edges)
    assert bool(edges) == (name in ("resnet between layers", "efficientnet"))


def test_a_value_between_layers_that_is_another_is_found():
    model = copy.deepcopy(exported("resnet between layers")[0])
    name, *_ = quantized_edges(model)
    content, images = stored(model), images_for(model, 4)

    def moved(edge, args):  # what the simulation alone takes
        return (args[0] + 0.3 * edge.activation.scale,)

    model.get_submodule(name).register_forward_pre_hook(moved)
    proof = prove(model, content, [(images, None)], batch_size=4)
    (wrong,) = [each for each in proof.edges if each.name == name]
    assert wrong.unexplained > 0
    assert any(f"{name}: " in fault for fault in proof.faults)


def test_float_inputs_leave_the_weights_to_prove():
    proof = proof_of(exported("float inputs")[0], count=4)
    assert proof.faults == []
    assert proof.network.agreeing == 4
    assert all(layer.codes == 0 and layer.bound is None for layer in proof.layers)
    assert "the weights are proven" in verdict(proof, [])
    assert any("inputs are float" in line for line in findings(proof, None))


def test_a_weight_that_is_another_is_found(residual):
    content = stored(residual)
    with torch.no_grad():
        residual.depthwise.layer.weight[3, 0, 1, 1] += residual.depthwise.scale[3]
    images = images_for(residual, 4)
    proof = prove(residual, content, [(images, torch.zeros(4).long())], batch_size=4)
    assert [layer.weights_differing for layer in proof.layers if layer.name == "depthwise"] == [1]
    unexplained = {layer.name: layer.unexplained for layer in proof.layers}
    assert unexplained["grouped"] > 0  # it takes what the changed weight puts out
    assert unexplained["depthwise"] == unexplained["stem"] == 0
    assert any("depthwise: 1 weights" in fault for fault in proof.faults)


def test_a_value_on_a_tie_is_a_tie_and_one_beside_it_is_not():
    class Two(nn.Module):
        """The second layer's input is a half, up to float rounding and `error`."""

        def __init__(self, error: float):
            super().__init__()
            self.first = QuantizedLayer(nn.Linear(1, 1), Grid(8), torch.ones(1), torch.zeros(1))
            self.second = QuantizedLayer(nn.Linear(1, 1), Grid(8), torch.ones(1), torch.zeros(1))
            self.first.bake(torch.ones(1, 1), torch.tensor([-0.5]))
            self.second.bake(torch.ones(1, 1), torch.zeros(1))
            with torch.no_grad():  # as if the float product were rounded
                self.first.layer.weight += error
            self.first.activation = ActivationQuantizer(1.0, 0, 8)
            self.second.activation = ActivationQuantizer(1.0, 0, 8)

        def forward(self, x):
            return self.second(self.first(x))

    images = torch.tensor([[2.0]])
    for error, ties, unexplained in ((-1e-6, 1, 0), (-0.01, 0, 1)):
        model = Two(error)
        proof = prove(model, stored(model), [(images, torch.zeros(1).long())], batch_size=1)
        assert (proof.layers[1].ties, proof.layers[1].unexplained) == (ties, unexplained)
        assert proof.layers[1].codes_differing == proof.layers[1].largest == 1
        assert (proof.layers[1].tie_gap > 0) == bool(ties)
