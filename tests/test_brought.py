"""Networks as people bring them, at the edges: what they give, hold and are called."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import attnround
from attnround.bits import Uniform
from attnround.deploy.comparison import Comparison
from attnround.errors import InputError
from attnround.graph import capture
from attnround.graph.costs import count_macs, count_places

SIDE = 8


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
