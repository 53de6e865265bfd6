"""Biases that kernels add as integers are integers in the simulation, and int32 holds them."""

import warnings

import pytest
import torch
from torch import nn

import attnround
from attnround.bits import Uniform
from attnround.deploy.runtime import onnx_file, open_onnx
from attnround.deploy.seal import about_export
from attnround.deploy.session import run, session
from attnround.evaluation import fidelity
from attnround.quantization.layers import LARGEST_BIAS, QuantizedLayer, quantized_layers
from attnround.quantization.observer import ClipSearch
from attnround.quantization.rounding import AdaRound
from attnround.quantized import Quantized
from attnround.reconstruction import BlockReconstruction


class Net(nn.Module):
    """Convolutions in a sum, one turned round, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.up, self.last = nn.ConvTranspose2d(12, 12, 2), nn.Linear(12 * 7**2, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        return self.last(self.up(x + self.second(x).relu()).relu().flatten(1))


def steps_of(layer: QuantizedLayer) -> torch.Tensor:
    """The bias in steps of the sums."""
    return layer.layer.bias.detach().double() / (layer.scale.double() * layer.activation.scale.detach().double())


def off_steps(layer: QuantizedLayer) -> float:
    """How far the bias is from whole steps, at most."""
    return (steps_of(layer) - steps_of(layer).round()).abs().max().item()


def default_logits(q: Quantized, images: torch.Tensor) -> torch.Tensor:
    content = q._content()
    raw, _ = onnx_file(q.model, content, about_export(content.about))
    return run(session(raw, "the file", {}), images)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def quick(model: nn.Module, images: torch.Tensor, placement: str = "onnxruntime", **options: object) -> Quantized:
    options = {"bits": Uniform(bit_width=4), "rounding": "gptq", "activation": 8} | options
    return attnround.quantize(model.eval(), images, placement=placement, progress=False, **options)


@pytest.mark.parametrize("options", [
    {}, {"rounding": "nearest"},
    {"rounding": AdaRound(num_steps=10), "reconstruction": BlockReconstruction(observer=ClipSearch(), num_steps=10)},
])  # fmt: skip
def test_convolutions_for_onnxruntime_have_biases_of_whole_steps(images, options):
    torch.manual_seed(0)
    layers = quantized_layers(quick(Net(), images, **options).model)
    assert max(off_steps(layers[name]) for name in ("first", "second", "up")) < 1e-3
    assert off_steps(layers["last"]) > 1e-2  # onnxruntime adds floats to products of matrices


def test_other_runtimes_have_float_biases(images):
    torch.manual_seed(0)
    for placement in ("inputs", "openvino", "tensorrt"):
        layers = quantized_layers(quick(Net(), images, placement).model)
        assert off_steps(layers["first"]) > 1e-2


def test_a_default_session_computes_what_was_measured(images):
    """But for codes that fall to a tie's other side; with biases that it rounds for itself no image has the same."""
    torch.manual_seed(0)
    q = quick(Net(), images)
    differences = (q(images).detach() - default_logits(q, images)).abs().amax(1)
    assert (differences < 1e-5).double().mean() > 0.5


@pytest.mark.parametrize(("weight", "rounding", "placement"), [
    (0.0, "gptq", "onnxruntime"), (0.0, "nearest", "inputs"),
    (1e-9, "gptq", "inputs"), (1e-7, "nearest", "onnxruntime"),
])  # fmt: skip
def test_a_channel_of_its_bias_alone_does_not_exceed_int32(images, placement, weight, rounding):
    """As pruned networks have them. Without room for the bias the logits are those of another network."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3)
    with torch.no_grad():
        first.weight[1:3] *= weight
        first.bias[1], first.bias[2] = 2.0, 0.01
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    q = quick(model, images, placement, bits=Uniform(bit_width=8), rounding=rounding)
    layer = quantized_layers(q.model)["0"]
    assert steps_of(layer).abs().max() < 2 * LARGEST_BIAS
    assert torch.allclose(layer.layer.bias[1:3], first.bias[1:3], atol=1e-4)
    assert fidelity(q(images).detach(), default_logits(q, images))["sqnr_db"] > 30


def test_rounded_biases_stay_when_they_are_baked_again(images):
    torch.manual_seed(0)
    layer = quantized_layers(quick(Net(), images).model)["first"]
    before = layer.layer.bias.clone()
    layer.bake(layer.levels)
    assert torch.equal(layer.layer.bias, before)


def test_training_ends_with_whole_steps(images):
    torch.manual_seed(0)
    q = quick(Net(), images)
    model = q.trainable()
    torch.optim.SGD(model.parameters(), 0.01).zero_grad()
    model(images).square().mean().backward()
    torch.optim.SGD(model.parameters(), 0.01).step()
    tuned = q.frozen(model)
    layer = quantized_layers(tuned.model)["first"]
    assert not torch.equal(layer.layer.bias, quantized_layers(q.model)["first"].layer.bias)
    assert off_steps(layer) < 1e-3


def test_training_leaves_room_for_a_bias(images):
    """A batch norm whose gain has died leaves its channel a bias alone."""
    torch.manual_seed(0)
    q = quick(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)), images)
    model = q.trainable()
    with torch.no_grad():
        trained = model.get_submodule("0")
        trained.norm.weight[1], trained.norm.bias[1] = 1e-11, 2.0
    tuned = q.frozen(model)
    assert steps_of(quantized_layers(tuned.model)["0"])[1].abs() < 2 * LARGEST_BIAS
    assert fidelity(tuned(images).detach(), default_logits(tuned, images))["sqnr_db"] > 30


def test_the_library_warns_where_a_default_session_gives_something_else(images, tmp_path, monkeypatch):
    torch.manual_seed(0)
    q = quick(Net(), images)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        q.export(tmp_path / "q.onnx")

    def overflowing(raw, path, settings):
        model = open_onnx(raw, path, settings)
        return model if settings else lambda images: -model(images)

    monkeypatch.setattr("attnround.deploy.runtime.open_onnx", overflowing)
    said = "with onnxruntime's default options it agrees with the simulation on 0.00 %"
    with pytest.warns(UserWarning, match=said) as caught:
        q.export(tmp_path / "q.onnx")
    assert "placement" not in str(caught[0].message)
    with pytest.warns(UserWarning, match="signed weights of 8 bits overflow without VNNI"):
        q.export(tmp_path / "q.onnx", weights="signed")
    with pytest.warns(UserWarning, match="placement=onnxruntime quantizes what it runs"):
        quick(Net(), images, "inputs").export(tmp_path / "q.onnx")
