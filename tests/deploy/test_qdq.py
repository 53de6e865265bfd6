"""ONNX files: what onnxruntime computes from them is what torch computes, in the types that the bits ask for."""

import functools
import importlib.util
import random
from collections import Counter

import onnx
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from onnx import TensorProto
from tests.conftest import ROOT
from tests.deploy.conftest import MODELS, SMALL, exported, images_for, quantized
from tests.graph.test_attention import Attention
from torch import nn

import attnround
from attnround.data import FashionMNIST
from attnround.deploy.changes import changes
from attnround.deploy.comparison import ALIKE, compare
from attnround.deploy.file import StoredLayer, read
from attnround.deploy.kernels import in_integers
from attnround.deploy.loading import open_model
from attnround.deploy.marked import float_graph
from attnround.deploy.qdq import quantized_graph, storage_bits, wanted_form, wanted_opset
from attnround.deploy.runtime import newest_opset, onnx_file, open_onnx, sealed_onnx
from attnround.deploy.seal import ENTRY, FORMAT, describe
from attnround.deploy.session import latency, optimised_graph, session
from attnround.errors import InputError
from attnround.graph import captured
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.grid import Grid
from attnround.quantization.layers import QuantizedLayer, quantized_edges, quantized_layers
from attnround.quantization.ranges import PLACEMENTS

ABOUT = {
    "model": {"name": "noise", "preprocessing": SMALL, "num_classes": 5}, "data": "noise",
    "versions": {"torch": "2.13.0", "timm": "1.0.0"},
}  # fmt: skip
DEFAULT = 0.03  # of the largest logit: biases in whole steps, which are coarse at 2 bits, and codes at ties


def layers_of(model: nn.Module) -> list[StoredLayer]:
    return [
        StoredLayer(name, each.grid, each.levels, each.scale, each.zero_point, each.layer.bias, each.activation)
        for name, each in quantized_layers(model).items()
    ]


def written(model: nn.Module, opset: int, weights: str = "runtime", floats: onnx.ModelProto | None = None) -> bytes:
    floats = floats or float_graph(model, opset)
    return sealed_onnx(quantized_graph(floats, layers_of(model), opset, weights, quantized_edges(model)), ABOUT)[0]


@functools.cache
def floats_of(name: str) -> onnx.ModelProto:
    """The float operations of a network of `MODELS` in the newest opset."""
    return float_graph(exported(name)[0], newest_opset())


def constants(raw: bytes) -> dict[str, TensorProto]:
    return {each.name: each for each in onnx.load_model_from_string(raw).graph.initializer}


def differ(model: nn.Module, raw: bytes, images: torch.Tensor) -> float:
    (found,) = compare(model, [open_onnx(raw, "x")], [(images, torch.zeros(len(images)))])
    return found.relative


@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_computes_what_torch_does(name):
    model, _ = exported(name)
    inputs = any(layer.activation is not None for layer in layers_of(model))
    raw = written(model, newest_opset(), "literal", floats_of(name))
    difference = differ(model, raw, images_for(model, 3, seed=1))
    assert difference < (0.05 if inputs else ALIKE)  # where a tie falls to its other side, a code differs
    stored = {layer.grid.bit_width for layer in layers_of(model)}
    assert stored == set(range(2, 9)) or name.startswith("resnet")
    kinds = {each.data_type for key, each in constants(raw).items() if key.endswith(".levels")}
    signs = "INT" if layers_of(model)[0].grid.symmetric else "UINT"
    assert kinds == {getattr(TensorProto, f"{signs}{bits}") for bits in (2, 4, 8)}


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_the_oldest_opset_has_int8_alone(name):
    model, _ = exported(name)
    raw = written(model, 13)
    assert differ(model, raw, images_for(model, 3, seed=1)) < 0.05
    kinds = {each.data_type for key, each in constants(raw).items() if key.endswith((".levels", ".zero_point"))}
    assert kinds <= {TensorProto.INT8, TensorProto.UINT8}
    assert {each.domain: each.version for each in onnx.load_model_from_string(raw).opset_import}[""] == 13


@pytest.mark.parametrize("name", ["resnet18_slim", pytest.param("mobilenetv2_050", marks=pytest.mark.slow)])
def test_a_shipped_model_on_real_images(name):
    config = OmegaConf.load(ROOT / f"conf/model/{name}.yaml")
    config.checkpoint = str(ROOT / f"assets/checkpoints/{name}.safetensors")
    model = quantized(captured(instantiate(config, _convert_="all").build()), None)
    data = FashionMNIST(root=str(ROOT / "assets/fashion_mnist"), limit=100, num_calibration=4, batch_size=50, seed=0)
    data.match(model.preprocessing, model.num_classes)
    raw = written(model, 25)
    (found,) = compare(model, [open_onnx(raw, "x")], data.val_dataloader())
    assert found.fault(quantized_inputs=False) is None
    assert found.images == found.agreeing == 100


KINDS = {  # two in a network, so that each is exported once
    ("ConvTranspose2d", "Conv1d"): lambda: (  # the first in groups
        nn.ConvTranspose2d(3, 6, 4, stride=3, padding=1, dilation=2, groups=3), nn.AvgPool2d(4), nn.Flatten(2),
        nn.Conv1d(6, 4, 5, stride=2, padding=1), nn.ReLU(),
    ),
    ("ConvTranspose2d", "Conv3d"): lambda: (
        nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Unflatten(1, (1, 4)),
        nn.Conv3d(1, 4, (2, 3, 3), padding=(0, 1, 1), stride=2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("inputs", [None, 8])
@pytest.mark.parametrize("kinds", KINDS, ids=" ".join)
def test_every_kind_of_layer_is_written(kinds, inputs, tmp_path):
    """Folded, quantized, packed, proven in integers, and the same in ONNX and as a torch program."""
    torch.manual_seed(0)
    net = nn.Sequential(*KINDS[kinds](), nn.Flatten(), nn.LazyLinear(5)).eval()
    images = torch.randn(8, 3, 9, 9)
    net(images)
    found = attnround.quantize(net, images, activation=inputs, rounding="gptq", progress=False)
    assert [row["kind"] for row in found.report] == [*kinds, "Linear"]
    assert found.verify().faults == []
    for suffix in (".onnx", ".pt2"):
        assert found.export(tmp_path / f"q{suffix}") == 100
    by_default, expected = open_onnx((tmp_path / "q.onnx").read_bytes(), "x", {})(images), found.model(images)
    assert (by_default - expected).abs().max() < DEFAULT * expected.abs().max()
    found.save(tmp_path / "q.safetensors")
    again = attnround.load(tmp_path / "q.safetensors", model=net)
    assert torch.equal(again(images), found.model(images))


class Two(nn.Module):
    """A convolution and a linear layer over tokens: what is transposed in ONNX, and what is not."""

    def __init__(self, bits: int, symmetric: bool, input_bits: int | None):
        super().__init__()
        torch.manual_seed(0)
        grid = Grid(bits, symmetric)
        self.preprocessing = {"input_size": [3, 6, 6]}
        self.conv, self.linear = (
            QuantizedLayer(layer, grid, torch.rand(len(layer.weight)) + 0.5, self._zeros(len(layer.weight), grid))
            for layer in (nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 7))
        )
        for layer in (self.conv, self.linear):
            layer.bake(torch.randint(grid.qmin, grid.qmax + 1, layer.levels.shape))
        if input_bits is not None:
            self.conv.activation = ActivationQuantizer(0.125, 2, input_bits)
            self.linear.activation = ActivationQuantizer(0.25, 0, input_bits)

    @staticmethod
    def _zeros(count: int, grid: Grid) -> torch.Tensor:
        return torch.zeros(count) if grid.symmetric else torch.randint(0, grid.qmax + 1, (count,)).float()

    def forward(self, x):
        return self.linear(self.conv(x).flatten(2).transpose(1, 2)).mean(1)


@functools.cache
def floats_of_two(inputs: bool, opset: int) -> onnx.ModelProto:
    """The float operations of any `Two` with quantized or float inputs."""
    return float_graph(Two(8, True, 8 if inputs else None).eval(), opset)


@pytest.mark.parametrize("opset", [13, 21, 25])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_width_in_every_type(bits, symmetric, opset):
    model = Two(bits, symmetric, None).eval()
    raw = written(model, opset, floats=floats_of_two(False, opset))
    assert differ(model, raw, torch.randn(4, 3, 6, 6)) < 1e-5
    narrow = storage_bits(bits, opset)
    assert narrow == {13: 8, 21: 4 if bits <= 4 else 8, 25: 2 if bits == 2 else 4 if bits <= 4 else 8}[opset]
    levels = constants(raw)["conv.levels"]
    assert levels.data_type == getattr(TensorProto, f"{'INT' if symmetric else 'UINT'}{narrow}")
    assert len(levels.raw_data) == -(-model.conv.levels.numel() * narrow // 8)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("input_bits", [None, *range(2, 9)])
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_width_of_weights_and_inputs_by_default(bits, input_bits, symmetric):
    """The runtime form gives what the literal one does, to the bit, and runs in integers by default."""
    model, images = Two(bits, symmetric, input_bits).eval(), 2 * torch.randn(4, 3, 6, 6)
    floats = floats_of_two(input_bits is not None, 25)
    literal, raw = (written(model, 25, weights, floats) for weights in ("literal", "runtime"))
    expected = open_onnx(literal, "x")(images)
    assert torch.equal(open_onnx(raw, "x")(images), expected)
    assert differ(model, raw, images) < 1e-5
    by_default = open_onnx(raw, "x", {})(images)
    assert (by_default - expected).abs().max() < DEFAULT * expected.abs().max()
    assert in_integers(raw, "x") == (set() if input_bits is None else {"conv", "linear"})


def at_the_ends(bits: int) -> tuple[nn.Module, torch.Tensor]:
    """A model whose weights and codes are at the ends of their ranges, with such images."""
    model = Two(bits, True, 8).eval()
    for layer in (model.conv, model.linear):
        ends = torch.tensor([layer.grid.qmin, layer.grid.qmax])
        layer.bake(
            ends[torch.arange(len(layer.levels)) % 2]
            .reshape(-1, *[1] * (layer.levels.ndim - 1))
            .expand_as(layer.levels)
        )
    return model, torch.full((4, 3, 6, 6), 100.0)


@pytest.mark.parametrize("bits", [7, 8])
def test_no_sum_overflows_by_default(bits):
    """Two products of a code and a signed weight of 8 bits leave the 16 bits that processors without VNNI add them in;
    of 7 bits they do not, and unsigned ones are added in 32.
    """
    model, images = at_the_ends(bits)
    pair = 2 * int(model.conv.activation.codes(images).max()) * -int(model.conv.levels.min())
    assert (pair > 2**15) == (bits == 8)
    raw = written(model, 21, floats=floats_of_two(True, 21))
    expected = open_onnx(raw, "x")(images)
    assert (open_onnx(raw, "x", {})(images) - expected).abs().max() < 1e-3 * expected.abs().max()
    assert in_integers(raw, "x") == {"conv", "linear"}
    for name in ("conv", "linear"):
        levels, zeros = (
            onnx.numpy_helper.to_array(constants(raw)[f"{name}.{part}"]) for part in ("levels", "zero_point")
        )
        assert levels.dtype == zeros.dtype == ("uint8" if bits == 8 else "int8")
        assert set(zeros) == {128 if bits == 8 else 0}


@pytest.mark.parametrize("input_bits", range(2, 9))
def test_inputs_of_every_width_are_clipped_to_it(input_bits):
    model = Two(8, True, input_bits).eval()
    images = 20 * torch.randn(4, 3, 6, 6)
    assert differ(model, written(model, 13, floats=floats_of_two(True, 13)), images) < 1e-5
    with torch.no_grad():
        codes = model.conv.activation.codes(images)
    assert codes.max() == 2**input_bits - 1
    assert codes.min() == 0


class Twins(Two):
    """Two layers that differ in nothing but their place."""

    def __init__(self):
        super().__init__(4, True, None)
        self.linear, self.after = (
            QuantizedLayer(nn.Linear(5, 5), Grid(4), torch.ones(5), torch.zeros(5)) for _ in range(2)
        )
        for layer in (self.linear, self.after):
            layer.bake(torch.eye(5), torch.zeros(5))

    def forward(self, x):
        return self.after(super().forward(x))


def test_layers_with_the_same_weights_are_two_layers():
    model = Twins().eval()
    raw = written(model, 21)
    assert {"linear.levels", "after.levels"} <= set(constants(raw))
    assert differ(model, raw, torch.randn(4, 3, 6, 6)) < 1e-5


class Bessel(Two):
    """With an operation that ONNX has not."""

    def forward(self, x):
        return torch.special.bessel_j0(super().forward(x))


def test_an_operation_without_translation_is_named():
    with pytest.raises(InputError, match=r"torch's exporter has no translation of prims.bessel_j0$"):
        float_graph(Bessel(4, True, None).eval(), 21)


def test_what_a_file_calls_its_tensors():
    """Readable names, any number of images, and nothing of the place where it was written."""
    model = onnx.load_model_from_string(raw := written(exported("vit")[0], newest_opset(), floats=floats_of("vit")))
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, logits.name) == ("images", "logits")
    assert images.type.tensor_type.shape.dim[0].dim_param == logits.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {"cls_token", "blocks.0.attn.qkv.levels", "blocks.0.attn.qkv.scale", "blocks.0.attn.qkv.bias"} <= set(
        constants(raw)
    )
    assert {each.domain for each in model.graph.node} == {""}
    assert not model.functions
    assert b".py" not in raw


def test_weights_of_another_form():
    with pytest.raises(InputError, match="weights=litteral: give literal"):
        wanted_form("litteral", "inputs")
    forms = [wanted_form("runtime", placement) for placement in PLACEMENTS]
    assert forms == ["runtime", "runtime", "signed", "runtime"]


def test_values_between_layers_keep_a_network_in_integers():
    """Every layer and every sum runs in integers by default, as read from the graph that onnxruntime makes."""
    layers = {}
    for name in ("resnet", "resnet between layers"):
        model, _ = exported(name)
        raw = written(model, newest_opset(), floats=floats_of(name))
        layers[name] = in_integers(raw, "x")
        images = images_for(model, 8, seed=1)
        expected = open_onnx(raw, "x")(images)
        assert (open_onnx(raw, "x", {})(images) - expected).abs().max() < 2 * DEFAULT * expected.abs().max()
    assert layers["resnet between layers"] == set(quantized_layers(model)) > layers["resnet"]
    optimised = optimised_graph(raw, "x")
    floats = [each.op_type for each in optimised.node if each.op_type in ("Conv", "FusedConv", "Relu", "MaxPool")]
    assert floats == []
    assert sum(each.op_type == "QLinearAdd" for each in optimised.node) == 4
    codes = [each for each in onnx.load_model_from_string(raw).graph.node if each.op_type == "QuantizeLinear"]
    values = {*quantized_edges(model).values(), *(each.activation for each in quantized_layers(model).values())}
    assert len(codes) == len(quantized_edges(model)) + 2  # the images, and behind the Reshape before the last layer
    assert len(values) == len(codes) - 1


def test_signed_weights_where_they_are_asked_for():
    model = Two(8, True, 8).eval()
    raw = written(model, 21, "signed", floats_of_two(True, 21))
    levels = onnx.numpy_helper.to_array(constants(raw)["conv.levels"])
    assert levels.dtype == "int8"
    images, unsigned = torch.randn(4, 3, 6, 6), written(model, 21, floats=floats_of_two(True, 21))
    assert torch.equal(open_onnx(raw, "x")(images), open_onnx(unsigned, "x")(images))


def test_the_opset_that_the_bits_want():
    stored = layers_of(Two(3, True, None))
    assert wanted_opset(stored) == 21
    assert wanted_opset(stored + layers_of(Two(2, True, None))) == 25


def test_latencies_are_taken_in_turns():
    model = Two(8, True, None).eval()
    each = session(float_graph(model, 21).SerializeToString(), "x")
    times = latency([each, each], torch.zeros(1, 3, 6, 6), rounds=3)
    assert len(times) == 2
    assert min(times) > 0


@pytest.fixture(scope="module")
def raw() -> bytes:
    return written(Two(4, False, 8).eval(), 21)


def test_a_flipped_bit_anywhere_is_seen(raw):
    draw = random.Random(0)
    for place in [*range(32), *draw.sample(range(len(raw)), 300), *range(len(raw) - 32, len(raw))]:
        damaged = bytearray(raw)
        damaged[place] ^= 1 << draw.randrange(8)
        with pytest.raises(InputError):
            open_onnx(bytes(damaged), "x.onnx")


@pytest.mark.parametrize("part", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(raw, part, tmp_path):
    (tmp_path / "short.onnx").write_bytes(raw[: part if isinstance(part, int) else int(part * len(raw))])
    with pytest.raises(InputError, match=r"short.onnx (is|does)") as caught:
        open_model(str(tmp_path / "short.onnx"))
    assert "\n" not in str(caught.value)


def test_what_is_not_ours_or_of_the_future(raw, tmp_path):
    foreign = float_graph(Two(4, True, None).eval(), 21)
    with pytest.raises(InputError, match="does not say that it is a quantized model"):
        open_onnx(foreign.SerializeToString(), "x.onnx")
    future = describe(ABOUT).replace('"format":1', f'"format":{FORMAT + 1}')
    foreign.metadata_props.add(key=ENTRY, value=future)
    with pytest.raises(InputError, match="install a newer attnround"):
        open_onnx(foreign.SerializeToString(), "x.onnx")
    with pytest.raises(InputError, match="cannot be read"):
        open_model(str(tmp_path / "no.onnx"))


def test_without_onnxruntime_a_line_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(InputError, match=r"needs onnxruntime: install the extra.*\[export\]"):
        open_model("x.onnx")


def test_the_exporter_says_nothing(caplog):
    caplog.set_level("INFO")
    written(Two(8, True, 8).eval(), 21)
    assert [record.name for record in caplog.records if record.levelname in ("DEBUG", "INFO")] == []


@pytest.mark.parametrize(("placement", "bits"), [("onnxruntime", 8), ("inputs", 8), ("openvino", 6)])
@torch.no_grad()
def test_a_pad_with_zeros_becomes_a_part_of_the_convolution(placement, bits):
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, stride=2)

        def forward(self, x):
            return self.two(nn.functional.pad(self.one(x).relu(), (0, 1, 0, 1))).relu().mean((2, 3))

    images = torch.randn(16, 3, 9, 9)
    found = attnround.quantize(
        Padded(), images, bits=8, rounding="nearest", activation=bits, placement=placement, progress=False
    )
    content = found._content()
    raw, _ = onnx_file(found.model, content, ABOUT)
    nodes = {each.output[0]: each for each in onnx.load_model_from_string(raw).graph.node}
    (pad,) = (each for each in nodes.values() if each.op_type == "Pad")
    assert nodes[pad.input[0]].op_type == "DequantizeLinear"
    kinds = Counter(node.op_type for node in optimised_graph(raw, "x").node)
    assert "Pad" not in kinds
    assert kinds["QLinearConv"] == (2 if placement == "onnxruntime" else 1)
    assert (open_onnx(raw, "x")(images) - found.model(images)).abs().max() < 1e-5


def test_an_unchanged_file_lacks_nothing(tmp_path):
    """The exporter leaves biases out that are zero."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5, bias=False))
    found = attnround.quantize(model, torch.randn(8, 3, 8, 8), rounding="nearest", progress=False)
    found.save(tmp_path / "it.safetensors")
    found.export(tmp_path / "it.onnx")
    assert changes(onnx.load(tmp_path / "it.onnx"), read(tmp_path / "it.safetensors")) == []


@pytest.mark.parametrize("bits", [4, 8])
@torch.no_grad()
def test_attention_runs_in_integers_and_is_loaded_as_it_was_saved(tmp_path, bits):
    torch.manual_seed(0)
    net, images = Attention().eval(), torch.randn(32, 3, 3, 3)
    found = attnround.quantize(net, images, rounding="gptq", activation=bits, attention=True, progress=False)
    found.save(tmp_path / "it.safetensors")
    again = attnround.load(tmp_path / "it.safetensors", model=Attention)
    assert torch.equal(again(images), found.model(images))
    assert again.about["format"] == FORMAT
    assert not found.verify().faults
    assert found.export(tmp_path / "it.onnx") == 100
    raw = (tmp_path / "it.onnx").read_bytes()
    names = {each.name for each in onnx.load_model_from_string(raw).graph.initializer}
    assert {f"edges.{role}.input_scale" for role in ("query", "key", "probability", "value")} <= names
    products = Counter(node.op_type for node in optimised_graph(raw, "it").node if "MatMul" in node.op_type)
    assert products == {"MatMulIntegerToFloat": 3}  # of a layer and of attention
