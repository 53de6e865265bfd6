from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.graph.conftest import IMAGE, captured
from torch import nn

import attnround
from attnround.calibration import attach_activations, calibrate_activations
from attnround.deploy.runtime import onnx_file, open_onnx
from attnround.deploy.seal import about_export
from attnround.deploy.session import AS_WRITTEN
from attnround.graph import beside, capture, find_edges, find_layers, fold_batch_norms, sources, swap_layers, with_edges
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.layers import Edge
from attnround.quantization.observer import ClipSearch, sqnr_db
from attnround.quantization.ranges import PLACEMENTS, Mse


class Net(nn.Module):
    """A sum, a gate, a pool that passes values on, a pool that averages, a concatenation, a sum with a parameter."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.squeeze, self.last, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(16, 8, 1), nn.Linear(8, 5)
        self.shift = nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x):
        x = nn.functional.max_pool2d(self.stem(x).relu(), 2)
        y = self.two(self.one(x).relu())
        x = (x + y).relu()
        x = x * self.squeeze(y.mean((2, 3), keepdim=True)).sigmoid()
        x = nn.functional.avg_pool2d(torch.cat([x, y], 1), 2)
        return self.head((nn.functional.gelu(self.last(x)) + self.shift).mean((2, 3)))


FOUND = {
    "inputs": "",
    "onnxruntime": "relu max_pool2d relu_2 two.result relu_3 squeeze.result sigmoid mul cat avg_pool2d last.result",
    "tensorrt": "max_pool2d",
    "openvino": "max_pool2d two.result relu sigmoid mul cat",
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return capture(Net().eval(), torch.zeros(1, 3, 12, 12))


def test_each_runtime_has_its_places(model):
    for placement in PLACEMENTS:
        placed = with_edges(model, placement)
        names = [name.removeprefix("edges.") for name in find_edges(placed)]
        assert names == FOUND[placement].split()
    assert with_edges(model, "inputs") is model
    assert with_edges(placed, "openvino") is placed


def test_what_passes_values_on_shares_the_quantizer(model):
    placed = with_edges(model, "onnxruntime")
    taken = sources(placed)
    assert taken["one"] == {"edges.max_pool2d"}
    assert taken["edges.max_pool2d"] == {"edges.relu"}
    assert taken["last"] == {"edges.avg_pool2d"}
    assert "squeeze" not in taken
    assert "head" not in taken
    images = torch.randn(16, 3, 12, 12)
    found = calibrate_activations(placed, images, Mse(8), 8)
    assert found["one"] is found["edges.max_pool2d"] is found["edges.relu"]
    narrow = calibrate_activations(placed, images, Mse(4), 8)
    assert narrow["edges.relu"].bit_width == 8
    assert narrow["one"].bit_width == 4


class Levels(nn.Module):
    """A head that two levels share, as detectors have it."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        fine = self.fine(x).relu()
        coarse = self.coarse(fine).relu()
        up = fine + nn.functional.interpolate(coarse, scale_factor=2.0)
        return self.head(up).flatten(2), self.head(coarse).flatten(2)


def test_a_layer_that_is_called_on_several_edges_shares_one_quantizer_with_them():
    """Of two in a row with other scales onnxruntime takes one away, and computes another network."""
    torch.manual_seed(0)
    images = torch.randn(16, 3, 16, 16)
    placed = with_edges(capture(Levels().eval(), images[:1]), "onnxruntime")
    assert sources(placed)["head"] == {"edges.add", "edges.relu_2"}
    found = calibrate_activations(placed, images, Mse(8), 8)
    assert found["head"] is found["edges.add"] is found["edges.relu_2"]
    seen = []
    hook = placed.get_submodule("head").register_forward_pre_hook(lambda _, given: seen.append(given[0].max().item()))
    placed(images)
    hook.remove()
    assert found["head"].scale * found["head"].levels[1] == pytest.approx(max(seen), rel=0.2)
    assert min(seen) < 0.5 * max(seen)
    quantized = attnround.quantize(Levels().eval(), images, rounding="nearest", placement="onnxruntime", activation=8)
    raw, _ = onnx_file(quantized.model, quantized._content(), about_export(quantized._content().about))
    for settings in (AS_WRITTEN, {}):
        given = open_onnx(raw, "the file", settings)(images)
        for expected, value in zip(quantized.model(images), given.values(), strict=True):
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)


def test_edges_do_nothing_until_they_have_a_quantizer_and_share_the_models_parameters(model):
    images = torch.randn(4, 3, 12, 12)
    placed = with_edges(model, "onnxruntime")
    assert torch.equal(placed(images), model(images))
    assert dict(placed.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert all(one is two for one, two in zip(placed.parameters(), model.parameters(), strict=True))
    student = swap_layers(placed, dict.fromkeys(find_layers(placed), 8), ClipSearch())
    attach_activations(student, calibrate_activations(placed, torch.randn(32, 3, 12, 12), Mse(8), 8))
    follower = beside(model, student)
    assert follower.graph is student.graph
    assert torch.equal(follower(images), model(images))
    assert 20 < sqnr_db(model(images), student(images)) < 60
    assert not find_edges(model)
    assert beside(model, model) is model


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "convnext_atto", "test_efficientnet", "test_vit"])
@torch.no_grad()
def test_networks_keep_their_function_and_transformers_their_sums(name):
    model = captured(name)
    fold_batch_norms(model)
    images = torch.randn(2, *IMAGE.shape[1:])
    for placement in PLACEMENTS[1:]:
        placed = with_edges(model, placement)
        assert torch.equal(placed(images), model(images))
        names = list(find_edges(placed))
        assert len(set(names)) == len(names)
        if name == "test_vit":
            assert not any(each.split(".")[-1].startswith(("add", "cat")) for each in names)


@given(
    codes=st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=50),
    scales=st.tuples(*[st.floats(2**-10, 1.0, width=32)] * 3),
    zeros=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_a_sum_of_codes_is_requantized_as_exact_integers_say(codes, scales, zeros):
    """Two quantized operands, their sum in floats and its edge, against rational numbers; at a tie both are right."""
    one, two, total = (ActivationQuantizer(s, z, 8) for s, z in zip(scales, zeros, strict=True))
    edge = Edge()
    edge.activation = total
    a, b = (torch.tensor(each, dtype=torch.uint8) for each in zip(*codes, strict=True))
    found = total.codes(edge(one.decode(a) + two.decode(b))).tolist()
    s1, s2, s3 = (Fraction(each.scale.item()) for each in (one, two, total))
    for (p, q), code in zip(codes, found, strict=True):
        exact = (s1 * (p - zeros[0]) + s2 * (q - zeros[1])) / s3 + zeros[2]
        nearest = min(max(exact, Fraction(0)), Fraction(255))
        assert abs(code - nearest) <= Fraction(1, 2) + Fraction(1, 1000) * (1 + abs(exact) / 255)


@pytest.mark.parametrize(
    ("how", "shares"), [((), True), (("constant", 0.0), True), (("constant", 1.0), False), (("reflect",), False)]
)
def test_a_pad_with_zeros_passes_values_on(how, shares):
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            return self.two(nn.functional.pad(self.one(x).relu(), (0, 1, 0, 1), *how)).mean((2, 3))

    taken = sources(with_edges(capture(Padded().eval(), torch.zeros(1, 3, 8, 8)), "onnxruntime"))
    assert (taken.get("two") == {"edges.relu"}) == shares
