"""OpenVINO's IR: as written it computes what torch does, by default in integers; damage to either file is seen."""

import functools
import importlib.util
import random

import pytest
import torch
from tests.deploy.conftest import MODELS, exported, images_for
from tests.deploy.test_qdq import ABOUT, at_the_ends, floats_of_two, layers_of, written
from torch import nn

import attnround
from attnround.api import ENDS
from attnround.bits import Uniform
from attnround.deploy.comparison import ALIKE, compare
from attnround.deploy.loading import open_model
from attnround.deploy.openvino import AS_WRITTEN, OPSET, kernels, layers_in_integers, open_ir, primitives, sealed_ir
from attnround.deploy.qdq import wanted_form
from attnround.deploy.runtime import onnx_file, open_onnx
from attnround.errors import InputError
from attnround.evaluation import logit_sqnr_db
from attnround.graph import find_edges
from attnround.machine import processor
from attnround.quantization.observer import ClipSearch
from attnround.reconstruction import LayerReconstruction

slow = pytest.mark.slow
# By default OpenVINO quantizes inputs of linear layers on the fly where there is VNNI, and takes bfloat16 if it can.
ON_THE_FLY = 0.01 if "VNNI" in processor() else 0.0  # of the largest logit


@functools.cache
def onnx_of(name: str) -> bytes:
    return written(exported(name)[0], OPSET, "signed")


@functools.cache
def ir(name: str) -> tuple[bytes, bytes]:
    return sealed_ir(onnx_of(name), ABOUT)


@slow
@pytest.mark.parametrize("name", MODELS)
def test_as_written_it_computes_what_torch_does(name):
    """Of all bit widths; where a tie falls to its other side, a code differs."""
    model, _ = exported(name)
    inputs = any(layer.activation is not None for layer in layers_of(model))
    batches = [(images_for(model, 3, seed=1), None)]
    found, default = compare(model, [open_ir(*ir(name), "x", AS_WRITTEN), open_ir(*ir(name), "x")], batches)
    assert found.relative < (0.05 if inputs else ALIKE)
    assert default.relative < (0.2 if inputs else max(ALIKE, ON_THE_FLY))  # it rounds codes of its own between layers


@slow
def test_as_written_no_input_of_a_wide_linear_layer_is_quantized_on_the_fly():
    """By default OpenVINO does, where the processor has VNNI."""
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), torch.randn(16, 1, 16, 16)
    found = attnround.quantize(model, images, bits=8, rounding="nearest", progress=False)
    raw, _ = onnx_file(found.model, found._content(), ABOUT, OPSET)
    given = open_ir(*sealed_ir(raw, ABOUT), "x", AS_WRITTEN)(images)
    assert (given - found.model(images)).abs().max() < ALIKE * given.abs().max()


@slow
def test_layers_with_quantized_inputs_run_in_integers():
    layers = layers_of(exported("resnet between layers")[0])
    name = "resnet between layers"
    by_default = layers_in_integers(open_ir(*ir(name), "x"))
    assert by_default == sorted(layer.name for layer in layers)
    assert layers_in_integers(open_ir(*ir(name), "x", AS_WRITTEN)) == []


@slow
@pytest.mark.parametrize(
    ("form", "activation", "why"),
    [
        ("runtime", 8, [None, None, "its weight is UINT8"]),
        ("signed", 8, [None, None, None]),
        ("runtime", None, ["its input is float"] * 3),
    ],
)
def test_each_layer_says_what_it_runs_as_and_why_in_floats(form, activation, why):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.grouped, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 5)

        def forward(self, x):
            return self.last(self.grouped(self.first(x).relu()).relu().mean((2, 3)))

    bits = Uniform(bit_width=4, pinned={"last": 8})
    found = attnround.quantize(
        Net(), torch.randn(16, 3, 9, 9), bits=bits, rounding="nearest", activation=activation, progress=False
    )
    content = found._content()
    raw, _ = onnx_file(found.model, content, ABOUT, OPSET, form)
    run = {each.layer: each for each in kernels(open_ir(*sealed_ir(raw, ABOUT), "x"), content.layers, form)}
    assert [run[name].why for name in ("first", "grouped", "last")] == why
    for each in run.values():
        assert each.in_integers == (each.why is None)
        assert each.runs_as.lower().endswith("_i8") == each.in_integers, each


@slow
@pytest.mark.parametrize(
    ("bits", "symmetric", "why"), [(8, True, "UINT8"), *((b, False, "on an asym") for b in (2, 4, 8))]
)
def test_zero_points_of_a_transposed_convolution_are_of_its_channels_by_default(bits, symmetric, why):
    """Where they are subtracted OpenVINO is 3 dB from the simulation."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.turned = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, stride=2)
            self.last = nn.Linear(8, 5)

        def forward(self, x):
            return self.last(self.turned(self.first(x).relu()).relu().mean((2, 3)))

    torch.manual_seed(1)
    found = attnround.quantize(
        Net(), torch.randn(16, 3, 12, 12), bits=Uniform(bit_width=bits), rounding="nearest", activation=8,
        reconstruction=LayerReconstruction(observer=ClipSearch(symmetric=symmetric)), progress=False,
    )  # fmt: skip
    content = found._content()
    raw, _ = onnx_file(found.model, content, ABOUT, OPSET)
    by_default, images = open_ir(*sealed_ir(raw, ABOUT), "x"), torch.randn(16, 3, 12, 12)
    assert logit_sqnr_db(found.model(images).detach(), by_default(images)) > 35
    assert all(each.why and why in each.why for each in kernels(by_default, content.layers, "runtime"))


@slow
def test_the_library_warns_of_logits_that_default_options_change(tmp_path):
    """OpenVINO's own fault: from the ninth image of a batch on, such a mean is wrong, whatever the class."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
            self.last = nn.Linear(8, 5)

        def forward(self, x):
            return self.last(self.second(self.first(x).relu()).relu().flatten(2).mean(2))

    torch.manual_seed(3)
    model = Net()
    model.last.bias.data[0] += 0.7
    q = attnround.quantize(
        model, torch.randn(32, 3, 12, 12), bits=Uniform(bit_width=7), rounding="nearest", activation=8, progress=False
    )
    with pytest.warns(UserWarning, match="openvino's default options its output follows the simulation's by"):
        assert q.export(tmp_path / "q.xml") == 100


@slow
@pytest.mark.parametrize("bits", [7, 8])
def test_no_sum_overflows_by_default(bits):
    """As in onnxruntime: 7 bits in integers, 8 as UINT8 in floats."""
    model, images = at_the_ends(bits)
    raw = written(model, OPSET, floats=floats_of_two(True, OPSET))
    assert wanted_form("runtime", "openvino") == "runtime"
    by_default = open_ir(*sealed_ir(raw, ABOUT), "x")
    expected = open_onnx(raw, "x")(images)
    assert (by_default(images) - expected).abs().max() < max(1e-3, ON_THE_FLY) * expected.abs().max()
    assert layers_in_integers(by_default) == (["conv", "linear"] if bits == 7 else [])


class Sums(nn.Module):
    """Two convolutions whose results are added, then two residual blocks."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.other = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))
        self.last = nn.Conv2d(16, 16, 3)

    def forward(self, x):
        x = self.first(x).relu()
        x = (self.other(x) + self.one(x)).relu()
        for i in (0, 2):
            x = (x + self.blocks[i + 1](self.blocks[i](x).relu())).relu()
        return self.last(x).flatten(1)


@slow
def test_a_convolution_that_takes_a_sum_does_not_round_its_own_result():
    """By default OpenVINO runs a sum in the convolution before it, and would clip that one's codes but not round."""
    torch.manual_seed(0)
    images, bits = torch.randn(32, 3, 12, 12), Uniform(bit_width=4, pinned=dict.fromkeys(ENDS, 7))
    found = attnround.quantize(
        Sums(), images, bits=bits, rounding="nearest", activation=8, placement="openvino", progress=False
    )
    assert [name for name in find_edges(found.model) if name.endswith(".result")] == ["edges.one.result"]
    raw, _ = onnx_file(found.model, found._content(), ABOUT, OPSET)
    by_default = open_ir(*sealed_ir(raw, ABOUT), "x")
    assert len(layers_in_integers(by_default)) == 8
    kinds = [kind for kind, _, _ in primitives(by_default)]
    assert "Eltwise" not in kinds
    assert logit_sqnr_db(found.model(images).detach(), by_default(images)) > 55


@slow
def test_a_pad_with_zeros_becomes_a_part_of_a_convolution_in_integers():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, stride=2)

        def forward(self, x):
            return self.two(nn.functional.pad(self.one(x).relu(), (0, 1, 0, 1))).relu().mean((2, 3))

    images, bits = torch.randn(16, 3, 9, 9), Uniform(bit_width=7)
    found = attnround.quantize(
        Padded(), images, bits=bits, rounding="nearest", activation=8, placement="openvino", progress=False
    )
    raw, _ = onnx_file(found.model, found._content(), ABOUT, OPSET)
    by_default = open_ir(*sealed_ir(raw, ABOUT), "x")
    assert layers_in_integers(by_default) == ["one", "two"]
    kinds = [each.get_rt_info()["layerType"].astype(str) for each in by_default.compiled.get_runtime_model().get_ops()]
    assert "Pad" not in kinds
    assert (by_default(images) - found.model(images)).abs().max() < 0.05 * found.model(images).abs().max()


@slow
def test_its_weights_are_packed():
    """At 2 to 4 bits two in a byte, else one; what is float comes on top."""
    xml, weights = ir("float inputs")
    layers = layers_of(exported("float inputs")[0])
    packed = sum(layer.levels.numel() * (4 if layer.grid.bit_width <= 4 else 8) / 8 for layer in layers)
    assert packed <= len(weights) < packed + 30_000
    assert b"i4" in xml or b"u4" in xml


@slow
@pytest.mark.parametrize("name", ["resnet between layers", "float inputs"])
def test_a_bias_is_a_constant_that_is_added(name):
    """OpenVINO's reader shapes the bias of an ONNX convolution at run time, by six operations of the .xml."""
    assert b'type="Convolution"' in ir(name)[0]
    assert b'type="Broadcast"' not in ir(name)[0]


@slow
def test_damage_to_either_file_is_seen(tmp_path):
    draw = random.Random(0)
    for damaged in (0, 1):
        for _ in range(20):
            files = [bytearray(each) for each in ir("float inputs")]
            place = draw.randrange(len(files[damaged]))
            files[damaged][place] ^= 1 << draw.randrange(8)
            with pytest.raises(InputError, match=r"damaged|does not say|not as"):
                open_ir(*map(bytes, files), "x.xml")
    (tmp_path / "quantized.xml").write_bytes(ir("float inputs")[0])
    with pytest.raises(InputError, match=r"quantized\.bin cannot be read"):
        open_model(str(tmp_path / "quantized.xml"))
    (tmp_path / "quantized.bin").write_bytes(ir("float inputs")[1])
    assert open_model(str(tmp_path / "quantized.xml"))(images_for(exported("float inputs")[0], 2)).shape == (2, 10)


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else there(name))
    with pytest.raises(InputError, match=r"needs openvino: install the extra, pip install -e '\.\[export,openvino\]'"):
        open_model(str(tmp_path / "quantized.xml"))


@slow
def test_the_library_writes_it_and_several_outputs_have_their_names(tmp_path):
    from torch import nn

    import attnround

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            x = self.conv(x).relu()
            return x, self.fc(x.mean((2, 3)))

    q = attnround.quantize(Two(), torch.randn(8, 3, 8, 8), rounding="gptq", output=1, progress=False)
    assert q.export(tmp_path / "q.xml") == 100
    assert sorted(each.name for each in tmp_path.iterdir()) == ["q.bin", "q.xml"]
    found = open_model(str(tmp_path / "q.xml"))(torch.randn(2, 3, 8, 8))
    assert {name: tuple(each.shape) for name, each in found.items()} == {"0": (2, 4, 6, 6), "1": (2, 2)}


@slow
def test_one_bias_of_convolutions_of_different_dimensions_has_a_shape_for_each():
    """The exporter writes equal constants once."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.last = nn.Conv1d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3), nn.Linear(12, 5)
            self.two.bias = nn.Parameter(self.one.bias.detach().clone())

        def forward(self, x):
            x = self.one(x.flatten(2)).relu().unflatten(2, (9, 9))
            return self.last(self.two(x).relu().mean((2, 3)))

    torch.manual_seed(0)
    images = torch.randn(8, 3, 9, 9)
    found = attnround.quantize(Net(), images, bits=7, rounding="nearest", progress=False)
    raw, _ = onnx_file(found.model, found._content(), ABOUT, OPSET)
    given = open_ir(*sealed_ir(raw, ABOUT), "x", AS_WRITTEN)(images)
    assert logit_sqnr_db(found.model(images).detach(), given) > 60
