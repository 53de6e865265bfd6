"""Networks as people bring them, at the edges: what they give, hold and are called."""

import dataclasses
import re
import subprocess
import sys
from collections import namedtuple

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset
from torchvision.ops import FrozenBatchNorm2d

import attnround
from attnround.api import BLOCK, LAYER
from attnround.bits import Auto, File, Mixed, Sensitivity, Uniform
from attnround.deploy import open_model
from attnround.deploy.comparison import Comparison
from attnround.errors import InputError
from attnround.graph import capture, class_logits
from attnround.graph.costs import count_macs, count_places
from attnround.quantization.observer import ClipSearch

SIDE = 8
NEAR = {".onnx": 1e-5, ".pt2": 1e-5, ".xml": 1e-2}  # OpenVINO computes in bfloat16 by default where it can


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(32, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    def __init__(self, num_outputs: int = 5):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, num_outputs)

    def body(self, x):
        return functional.relu(self.second(functional.relu(self.first(x))))

    def scores(self, x):
        return self.head(self.body(x).mean((2, 3)))

    def forward(self, x):
        return self.scores(x)


def quick(model, images, **options):
    torch.manual_seed(0)
    return attnround.quantize(model, images, **{"rounding": "gptq", "progress": False} | options)


@pytest.mark.parametrize("place", ["head.bias", "norm.running_mean"])
def test_nan_outside_the_weights_is_refused(images, place):
    class Net(Base):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.scores(self.norm(x))

    net = Net()
    net.state_dict()[place][1] = torch.nan
    with pytest.raises(InputError, match=r"NaN in .*: use an intact checkpoint"):
        quick(net, images, rounding="nearest")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("quantized_inputs", [False, True])
def test_a_file_that_gives_nan_is_at_fault(value, quantized_inputs):
    found = Comparison()
    found.add(torch.ones(4, 1), torch.full((4, 1), value), None)
    assert found.fault(quantized_inputs) == "it gives NaN or infinity where the simulation does not"


class Named(Base):
    def forward(self, x):
        y = self.body(x)
        return {"features": y, "classes": self.head(y.mean((2, 3))).argmax(1), "scores": self.head(y.mean((2, 3)))}


@pytest.mark.parametrize("output", ["scores", lambda given: given["scores"]])
def test_one_of_several_outputs_is_compared_in_every_file(images, tmp_path, output):
    found = quick(Named(), images, output=output)
    for ending in ("onnx", "pt2", "xml"):
        assert found.export(tmp_path / f"it.{ending}") == 100


def test_outputs_have_their_own_names_in_the_file(images, tmp_path):
    import onnxruntime

    quick(Named(), images, output="scores").export(tmp_path / "it.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "it.onnx")
    outputs = {each.name: each.type for each in session.get_outputs()}
    assert outputs == {"features": "tensor(float)", "classes": "tensor(int64)", "scores": "tensor(float)"}


class Called(Base):
    """Its outputs have these names: of its scores, of what it adds to them, and of a value that is quantized."""

    def __init__(self, *names):
        super().__init__()
        self.gain, self.names = nn.Parameter(torch.ones(8)), names

    def forward(self, x):
        y = functional.relu(self.first(x))
        z = functional.relu(self.second(y) + y)
        return dict(zip(self.names, (self.head(z.mean((2, 3)) * self.gain), z.amax((2, 3)), y), strict=True))


@pytest.mark.parametrize("names", [("mean", "gain", "relu"), ("add", "logits", "features")])
def test_outputs_may_be_called_as_torchs_exporter_calls_values(images, tmp_path, names):
    """And what of several names OpenVINO gives an output after compilation is not what it is called."""
    found = quick(Called(*names), images, output=names[0], activation=8, placement="onnxruntime")
    for ending in ("onnx", "xml"):
        assert found.export(tmp_path / f"it.{ending}") == 100
        given = open_model(tmp_path / f"it.{ending}")(images)
        for name, expected in found.model(images).items():
            torch.testing.assert_close(given[name], expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("bits", [8, 4])
def test_what_tensorrt_takes_has_signed_codes_and_no_zero_point(images, tmp_path, bits):
    """Its parser refuses any other, NVIDIA/TensorRT#4698, and it clips no integers."""
    found = quick(Called("a", "b", "c"), images, output="a", activation=bits, placement="tensorrt")
    assert found.export(tmp_path / "it.onnx") == 100
    assert not found.verify().faults
    graph = onnx.load(tmp_path / "it.onnx").graph
    held = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    zeros = {node.input[2] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert len(zeros) > 4
    assert all(held[name].dtype == np.int8 and not held[name].any() for name in zeros)
    codes = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    clips = [node for node in graph.node if node.op_type == "Clip"]
    assert bool(clips) == (bits < 8)
    assert not any(node.input[0] in codes for node in clips)


def test_weights_with_zero_points_are_none_for_tensorrt(images):
    layer = LAYER(observer=ClipSearch(symmetric=False))
    with pytest.raises(InputError, match="has no zero points, of weights neither"):
        quick(Base(), images, activation=8, placement="tensorrt", reconstruction=layer)


def test_two_outputs_of_one_name_are_refused(images, tmp_path):
    class Twice(Base):
        def forward(self, x):
            return {"a": {"b": self.scores(x)}, "a.b": 2 * self.scores(x)}

    with pytest.raises(InputError, match=r"the model gives two outputs called a\.b: rename one in the model"):
        quick(Twice(), images).export(tmp_path / "it.onnx")


Pair = namedtuple("Pair", "scores features")


class Paired(Base):
    def forward(self, x):
        y = self.body(x)
        return Pair(self.head(y.mean((2, 3))), y)


def test_a_program_gives_a_dictionary_in_place_of_a_class_that_torch_alone_has_not(images, tmp_path):
    found = quick(Paired(), images, output="scores")
    assert found.export(tmp_path / "it.pt2") == 100
    script = "import torch; print(*torch.export.load('it.pt2').module()(torch.zeros(2, 3, 8, 8)))"
    done = subprocess.run([sys.executable, "-P", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["scores", "features"], done.stderr
    given = open_model(tmp_path / "it.pt2")(images)
    assert torch.equal(given["scores"], found.model(images).scores)


class Anchored(Named):
    """Its first output has a row for each anchor, not for each image."""

    def __init__(self):
        super().__init__()
        self.register_buffer("anchors", torch.ones(7, 4))

    def forward(self, x):
        return {"anchors": self.anchors, "scores": self.head(self.body(x).mean((2, 3)))}


def test_outputs_of_no_image_are_not_what_a_model_is_judged_by(images, tmp_path):
    found = quick(Anchored(), images, bits=2, output="scores")
    assert found.report.sqnr_db == pytest.approx(found.report.outputs_db["scores"])
    assert found.export(tmp_path / "it.onnx") == 100
    assert not found.verify().faults
    blocks = BLOCK(num_steps=4, burst=2, loss="logits")
    quick(Anchored(), images, output="scores", rounding="attention_round", reconstruction=blocks)


@pytest.mark.parametrize(
    "options", [{"bits": "fisher"}, {"reconstruction": BLOCK(num_steps=4, burst=2, loss="fisher")}]
)
def test_one_class_has_no_fisher_information(images, options):
    net = Base()
    net.head = nn.Linear(8, 1)
    with pytest.raises(
        InputError, match=r"the logits are \[\d+, 1\]: Fisher information is of \[N, classes\], 2 classes"
    ):
        quick(net, images, rounding="attention_round", **options)


class Frozen(nn.Module):
    """A batch norm of buffers, whose gain and shift are computed at each call."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        for buffer in self.norm.buffers():
            buffer.uniform_(0.5, 2)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def test_a_file_holds_what_follows_from_buffers(images, tmp_path):
    found = quick(Frozen(), images)
    found.save(tmp_path / "it.safetensors")
    assert torch.equal(attnround.load(tmp_path / "it.safetensors", model=Frozen)(images), found.model(images))


class Normed(Base):
    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x):
        return self.head(self.norm(self.body(x)).mean((2, 3)))


def test_what_stays_float_trains_whichever_run_it_is(images):
    prepared = attnround.Prepared(Normed(), images)
    runs = [quick(prepared, None) for _ in range(2)]
    runs.append(quick(Normed(), images, bits=attnround.bits.Auto(allocator=Uniform(), num_trials=1, max_drop=100)))
    for run in runs:
        assert run.trainable().norm.weight.requires_grad


class Windows(nn.Module):
    """A linear layer on windows of tokens, which are images to it."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(3, 4)

    def forward(self, x):
        tokens = x.flatten(2).mT
        windows = tokens.reshape(x.shape[0] * 4, SIDE * SIDE // 4, 3)
        return self.mix(windows).reshape(x.shape[0], -1, 4).mean(1)


def test_products_are_counted_wherever_an_image_is(images):
    model = capture(Windows(), images[:1])
    assert count_macs(model, ["mix"], images[:1]) == {"mix": SIDE * SIDE * 3 * 4}
    assert count_places(model, ["mix"], images[:1]) == {"mix": SIDE * SIDE}


class Regression(Base):
    def __init__(self):
        super().__init__(1)

    def forward(self, x):
        return self.scores(x).squeeze(1)


def test_a_number_an_image(images, tmp_path):
    found = quick(Regression(), images, activation=8)
    assert not found.verify().faults
    assert found.export(tmp_path / "it.onnx") == 100
    with pytest.raises(InputError, match=r"the logits are \[1\]: only \[N, classes\] are trained on"):
        found.finetune(TensorDataset(images, torch.zeros(32, dtype=torch.long)), progress=False)
    with pytest.raises(InputError, match=r"Fisher information is of \[N, classes\]"):
        quick(Regression(), images, bits="fisher")


class Squeezed(Base):
    def forward(self, x):
        return self.head(functional.adaptive_avg_pool2d(self.body(x), 1).squeeze())


def test_a_squeeze_of_all_dimensions_is_told(images):
    with pytest.raises(InputError, match=r"\[5\] for one image and \[2, 5\] for two: write flatten\(1\)"):
        quick(Squeezed(), images)


def test_names_that_the_captured_model_needs_are_told(images):
    net = Base()
    net.preprocessing = nn.Identity()
    with pytest.raises(InputError, match="Base has a submodule called preprocessing"):
        quick(net, images)

    class Edges(Base):
        def __init__(self):
            super().__init__()
            self.edges = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.scores(self.edges(x))

    assert "edges" in quick(Edges(), images).allocation.bit_width
    with pytest.raises(InputError, match=r"placement=onnxruntime: the model has a submodule called edges"):
        quick(Edges(), images, activation=8, placement="onnxruntime")

    class Caps(Base):
        def __init__(self):
            super().__init__()
            self.caps = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            y = self.caps(functional.relu6(self.first(x)))
            return self.head(functional.relu6(y).mean((2, 3)))

    with pytest.raises(InputError, match=r"equalization: the model has a submodule called caps"):
        quick(Caps(), images, equalization="cross_layer")


def numbered() -> nn.Sequential:
    """Layers called 0.0 to 0.10."""
    return nn.Sequential(nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(11))), nn.Flatten(), nn.Linear(192, 4))


def test_a_name_that_reads_as_a_number_is_one_layers(images, tmp_path):
    wanted = {f"0.{i}": 4 for i in range(10)} | {"0.10": 8, "2": 4}
    with pytest.raises(InputError, match=re.escape("could be 0.1 or 0.10: put a digit in brackets, as in 0.1[0]")):
        quick(numbered(), images, bits=Uniform(bit_width=4, pinned={0.10: 8}))
    assert quick(numbered(), images, bits=Uniform(bit_width=4, pinned={"0.1[0]": 8})).allocation.bit_width == wanted
    assert quick(numbered(), images, bits=Uniform(bit_width=4, pinned={0.2: 5})).allocation.bit_width["0.2"] == 5
    (tmp_path / "bits.yaml").write_text("".join(f"{name}: {bits}\n" for name, bits in wanted.items()))
    assert quick(numbered(), images, bits=File(path=str(tmp_path / "bits.yaml"))).allocation.bit_width == wanted


class Masked(Base):
    """One class is never given."""

    def forward(self, x):
        return self.scores(x).masked_fill(torch.arange(5) == 2, -torch.inf)


@pytest.mark.parametrize("bits", [Mixed(budget=4), Sensitivity(budget=4, measure="network")], ids=["mixed", "network"])
def test_a_masked_class_leaves_bits_and_forecast_finite(images, bits):
    found = quick(Masked(), images, bits=bits)
    foretold = found.allocation.predicted_sqnr_db
    assert foretold is None or abs(foretold - found.report.sqnr_db) < 10


@pytest.mark.parametrize(
    "bits", [Mixed(budget=4, relative_to="fisher"), Sensitivity(budget=4, measure="network")], ids=["fisher", "network"]
)
def test_logits_that_are_all_zero_have_bits(images, bits):
    net = Base()
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    assert quick(net, images, bits=bits).allocation.bit_width.keys() == {"first", "second", "head"}


class Blurred(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("blur", torch.ones(8, 1, 3, 3) / 9)

    def forward(self, x):
        y = functional.conv2d(functional.relu(self.first(x)), self.blur, groups=8)
        return self.head(functional.relu(self.second(y)).mean((2, 3)))


def test_a_fixed_filter_stays_as_it_is(images, tmp_path):
    found = quick(Blurred(), images)
    assert set(found.allocation.bit_width) == {"first", "second", "head"}
    assert torch.equal(found.model.get_buffer("blur"), Blurred().blur)
    found.save(tmp_path / "it.safetensors")
    assert torch.equal(attnround.load(tmp_path / "it.safetensors", model=Blurred)(images), found.model(images))
    assert found.export(tmp_path / "it.onnx") == 100


def test_a_batch_norm_over_all_batches_stays_one(images):
    class Net(Base):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(8, momentum=None)

        def forward(self, x):
            return self.head(functional.relu(self.norm(self.first(x))).mean((2, 3)))

    trained = quick(Net(), images).trainable()
    assert [each.momentum for each in trained.modules() if isinstance(each, nn.BatchNorm2d)] == [None]


class Skip(nn.Module):
    """A residual block that calls one activation as a module and one as a function."""

    def __init__(self, num_inputs: int):
        super().__init__()
        self.first, self.relu = nn.Conv2d(num_inputs, 8, 3, padding=1), nn.ReLU()
        self.second, self.skip = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(num_inputs, 8, 1)

    def forward(self, x):
        return functional.relu(self.second(self.relu(self.first(x))) + self.skip(x))


class Ends(nn.Module):
    """Gives what a convolution, a sum or an activation behind one gives, as networks for pictures do."""

    def __init__(self, how):
        super().__init__()
        self.first, self.last, self.how = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), how

    def forward(self, x):
        y = functional.relu(self.first(x))
        return {"conv": self.last(y), "sum": y + functional.relu(y), "sigmoid": self.last(y).sigmoid(), "all": y}[
            self.how
        ]


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(Skip(3), Skip(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
        *(lambda how=how: Ends(how) for how in ("conv", "sum", "sigmoid", "all")),
    ],
    ids=["module and function", "conv", "sum", "sigmoid", "features"],
)
def test_values_between_layers_leave_with_the_model(images, tmp_path, make, suffix):
    found = quick(make(), images, activation=8, placement="onnxruntime")
    assert found.export(tmp_path / f"it{suffix}") > 99.9
    found.save(tmp_path / "it.safetensors")
    again = attnround.load(tmp_path / "it.safetensors", model=make())
    assert torch.equal(again(images), found.model(images))


class UsesItsTensors(Base):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        logits = self.scores(x)
        if self.how == "bias":
            return logits - self.head.bias
        return logits * self.head.weight.square().sum()


@pytest.mark.parametrize("how", ["bias", "weight"])
def test_a_layers_tensors_are_values_elsewhere_too(images, tmp_path, how):
    net = UsesItsTensors(how)
    found = quick(net, images, bits=8)
    with torch.no_grad():
        assert torch.allclose(found.prepared.teacher(images), net(images), atol=1e-5)
    assert found.report.sqnr_db > 25
    found.save(tmp_path / "it.safetensors")
    assert torch.equal(attnround.load(tmp_path / "it.safetensors", model=net)(images), found.model(images))


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize("what", ["the images", "a loss", "a constant"])
def test_all_outputs_leave_with_the_model(images, tmp_path, what, suffix):
    class Net(Base):
        def __init__(self):
            super().__init__()
            self.other = nn.Linear(8, 3)
            self.register_buffer("table", torch.arange(6.0))

        def forward(self, x):
            y = self.body(x).mean((2, 3))
            others = {"the images": x, "a loss": self.other(y).mean(), "a constant": self.table}
            return {"logits": self.head(y), "other": others[what]}

    found = quick(Net(), images, output="logits")
    path = tmp_path / f"it{suffix}"
    assert found.export(path) == 100
    opened, expected = open_model(str(path))(images), found.model(images)
    assert opened.keys() == expected.keys()
    assert torch.allclose(opened["other"], expected["other"], atol=NEAR[suffix])


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_dictionary_of_one_can_be_evaluated(images, tmp_path, suffix):
    class Net(Base):
        def forward(self, x):
            return {"logits": self.scores(x)}

    found = quick(Net(), images, output="logits")
    path = tmp_path / f"it{suffix}"
    found.export(path)
    logits = class_logits(open_model(str(path)), images)
    assert torch.allclose(logits, found.model(images)["logits"], atol=NEAR[suffix])


def test_an_output_that_is_called_as_the_input_is_told(images, tmp_path):
    class Net(Base):
        def forward(self, x):
            return {"logits": self.scores(x), "images": x + 1}

    with pytest.raises(InputError, match="the model gives an output called images, as the file's input is"):
        quick(Net(), images, output="logits").export(tmp_path / "it.onnx")

    class Tensors(Base):
        def forward(self, x):
            x = self.scores(x)
            return {"logits": x, key: x + 1}

    for key in (next(iter(Base().state_dict())), f"{next(iter(Base().state_dict())).rpartition('.')[0]}.input"):
        with pytest.raises(InputError, match=f"an output called {key}, as a tensor of the file is"):
            quick(Tensors(), images, output="logits").export(tmp_path / "it.onnx")


class Otherwise(Base):
    """The same names and shapes, and another forward."""

    def __init__(self, stride=1, act=functional.relu):
        super().__init__()
        self.second.stride, self.act = (stride, stride), act

    def body(self, x):
        return self.act(self.second(self.act(self.first(x))))


@pytest.mark.parametrize("activation", [None, 8])
@pytest.mark.parametrize("change", [{"stride": 2}, {"act": functional.silu}], ids=["stride", "activation"])
def test_a_file_is_not_loaded_into_another_forward(images, tmp_path, change, activation):
    found, path = quick(Otherwise(), images, activation=activation), tmp_path / "it.safetensors"
    found.save(path)
    assert torch.equal(attnround.load(path, model=Otherwise())(images), found.model(images))
    with pytest.raises(InputError, match=r"the model given differs in what it computes: strides, activations, pools"):
        attnround.load(path, model=Otherwise(**change))


def test_a_model_that_draws_has_no_mark(images, tmp_path):
    class Net(Base):
        def forward(self, x):
            return self.scores(x + 0.1 * torch.rand_like(x))

    quick(Net(), images).save(tmp_path / "it.safetensors")
    assert "probe" not in attnround.load(tmp_path / "it.safetensors", model=Net()).about


@pytest.mark.parametrize(
    ("expected", "output", "change", "fault"),
    [
        (torch.randn(8, 1), None, lambda y: 7 - 1000 * y, r"its output follows the simulation's by -\d+\.\d dB"),
        (torch.randn(8), None, lambda y: 2 * y, r"its output follows the simulation's by 0\.0 dB, 20 dB are asked"),
        (torch.randn(8, 1, 4, 4), None, torch.zeros_like, r"by 0\.0 dB"),
        (
            {"logits": torch.randn(8, 5), "boxes": torch.randn(8, 4)},
            "logits",
            lambda y: y | {"boxes": torch.zeros(8, 4)},
            r"its output boxes follows the simulation's by 0\.0 dB",
        ),
    ],
    ids=["a number", "a bare number", "a map", "a second head"],
)
def test_what_has_no_classes_is_compared_too(expected, output, change, fault):
    right, wrong = Comparison(), Comparison()
    right.add(expected, expected, None, output)
    wrong.add(expected, change(expected), None, output)
    assert right.fault(quantized_inputs=True) is None
    assert re.search(fault, wrong.fault(quantized_inputs=True))


def test_nan_in_the_same_places_is_the_same():
    logits = torch.randn(8, 5)
    logits[0, 0] = torch.nan
    found = Comparison()
    found.add(logits, logits.clone(), None)
    assert found.logit_difference == 0


def test_images_of_another_shape_are_told(images):
    found = quick(Base(), images)
    others = torch.randn(4, 3, 2 * SIDE, SIDE)
    for ask in (found.verify, lambda given: found.evaluate(TensorDataset(given, torch.zeros(4, dtype=torch.long)))):
        with pytest.raises(InputError, match=r"images are \[3, 16, 8\], the model takes \[3, 8, 8\]: resize them"):
            ask(others)
    for size in (0, -1, 2.5, "4"):
        with pytest.raises(InputError, match=rf"batch_size={size!r}: give a whole number of at least 1"):
            found.verify(batch_size=size)


def test_a_folder_that_is_not_there_is_told_first(images, tmp_path):
    with pytest.raises(InputError, match=r"it\.onnx: there is no folder .*missing: make it first"):
        quick(Base(), images).export(tmp_path / "missing" / "it.onnx")


def test_a_dataclass_that_torch_does_not_know_is_named_with_its_remedy(images):
    @dataclasses.dataclass
    class Out:
        logits: torch.Tensor

    class Net(Base):
        def forward(self, x):
            return Out(self.scores(x))

    with pytest.raises(InputError, match=r"that torch does not know: torch.export.register_dataclass makes one known"):
        quick(Net(), images)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda images: {"pixel_values": images}, "images are a dict: give a tensor"),
        (lambda images: images.numpy(), "images are a NumPy array: give torch.from_numpy of it"),
    ],
)
def test_images_of_another_kind_are_named(images, what, said):
    with pytest.raises(InputError, match=said):
        quick(Base(), what(images))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Mixed(budget=5, candidates=5), "bits.candidates=5: give a list of bit widths"),
        (lambda: Auto(allocator=5), "bits.allocator=5: give an allocator with a budget"),
    ],
)
def test_settings_of_another_kind_are_named(make, said):
    with pytest.raises(InputError, match=said):
        make()


@pytest.mark.parametrize("budget", [1, 9])
def test_a_budget_out_of_reach_says_what_is_within(images, budget):
    with pytest.raises(InputError, match=r"is out of reach: .* this model takes 2.0 to 8.0"):
        quick(Base(), images, bits=Mixed(budget=budget))


def test_what_is_saved_is_a_file_in_a_folder(images, tmp_path):
    found = quick(Base(), images, num_images=np.int64(8))
    for path, said in (
        (tmp_path, "is a folder: give the name of a file"),
        (tmp_path / "no/it.x", "there is no folder"),
    ):
        with pytest.raises(InputError, match=said):
            found.save(path)
