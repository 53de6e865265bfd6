import copy

import pytest
import torch
from torch import nn

from attnround.calibration import activation_columns, attach_activations, calibrate_activations
from attnround.errors import InputError
from attnround.graph import capture, find_layers, swap_layers
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import ClipSearch, sqnr_db
from attnround.quantization.ranges import Float, Lsq, MinMax, Mse, Percentile
from attnround.quantization.rounding import AttentionRound, Nearest
from attnround.reconstruction import LayerReconstruction, reconstruct

ENDS = {"first": 8, "last": 8}


class Swish(nn.Module):
    """SiLU, hard-swish, a sum of both, a gate: inputs with short negative tails and inputs of both signs."""

    def __init__(self):
        super().__init__()
        self.stem, self.one = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.two, self.gate, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = nn.functional.silu(self.stem(x))
        x = x + self.one(x)
        y = nn.functional.hardswish(self.two(input=x))
        y = y * self.gate(y.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.head((x + y).mean((2, 3)))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return capture(Swish(), torch.zeros(1, 3, 12, 12))


@pytest.fixture
def images():
    return torch.randn(96, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def quantized(model, images, search, bits=4):
    student = swap_layers(model, dict.fromkeys(find_layers(model), bits), ClipSearch())
    attach_activations(student, calibrate_activations(model, images, search, 32))
    return student


def fidelity(model, student) -> float:
    x = torch.randn(200, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return sqnr_db(model(x), student(x))


def test_every_layers_input_has_the_range_of_the_float_model(model, images):
    found = calibrate_activations(model, images, MinMax(8, pinned={"first": 6}), 32)
    inputs = {}
    for name in find_layers(model):
        module = model.get_submodule(name)
        module.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: inputs.update({name: (*args, *kwargs.values())[0]}),
            with_kwargs=True,
        )
    with torch.no_grad():
        model(images)
    assert list(found) == list(inputs)
    assert [each.bit_width for each in found.values()] == [6] + [8] * (len(found) - 1)
    for name, quantizer in found.items():
        x = inputs[name]
        low, high = min(x.min().item(), 0), max(x.max().item(), 0)
        assert quantizer.scale.item() * quantizer.grid.qmax == pytest.approx(high - low, rel=1e-5)
        assert quantizer.signed == (low < -quantizer.scale.item() / 2)
        assert (quantizer(x) - x).abs().max() <= quantizer.scale * 1.001


def test_calibration_leaves_the_model_as_it_was(model, images):
    before = copy.deepcopy(model.state_dict())
    whole = calibrate_activations(model, images, Mse(4), 32)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    in_one = calibrate_activations(model, images, Mse(4), 96)
    for name, quantizer in whole.items():
        assert quantizer.zero_point == in_one[name].zero_point
        torch.testing.assert_close(quantizer.scale, in_one[name].scale, rtol=1e-3, atol=0)


def test_none_leaves_the_inputs_float(model, images):
    assert calibrate_activations(model, images, Float(), 32) == {}
    student = quantized(model, images, Float())
    assert activation_columns(student, "stem") == {}
    assert all(each.activation is None for each in student.modules() if isinstance(each, QuantizedLayer))


@pytest.mark.parametrize("search", [MinMax, Percentile, Mse, Lsq])
def test_eight_bits_cost_little_and_four_bits_more(model, images, search):
    at = {bits: fidelity(model, quantized(model, images, search(bits, pinned=ENDS), bits=8)) for bits in (8, 4)}
    assert at[8] > 30
    assert 15 < at[4] < at[8] - 3


def test_reconstruction_takes_up_the_error_of_the_inputs(model, images):
    """Weights reconstructed for inputs of 3 bits serve these better than weights reconstructed for float inputs."""
    settings = LayerReconstruction(observer=ClipSearch(), batch_size=32)

    def reconstructed(quantizer, at_once: bool) -> tuple[nn.Module, list]:
        student = quantized(model, images, Mse(3, pinned=ENDS) if at_once else Float())
        reports = reconstruct(model, student, images, quantizer, settings)
        attach_activations(student, calibrate_activations(model, images, Mse(3, pinned=ENDS), 32))
        return student, reports

    aware, reports = reconstructed(AttentionRound(num_steps=100), at_once=True)
    blind, _ = reconstructed(AttentionRound(num_steps=100), at_once=False)
    nearest, _ = reconstructed(Nearest(), at_once=True)
    assert fidelity(model, aware) > fidelity(model, blind) + 1
    assert fidelity(model, aware) > fidelity(model, nearest) + 3
    assert all(report.sqnr_db >= report.start_sqnr_db for report in reports)


def test_the_columns_say_what_the_input_got(model, images):
    student = quantized(model, images, Mse(4, pinned=ENDS))
    assert activation_columns(student, "stem") == {
        "activation_bits": 8,
        "activation_signed": True,
        "activation_scale": student.stem.activation.scale.item(),
        "activation_zero_point": student.stem.activation.zero_point,
    }
    assert activation_columns(student, "head")["activation_bits"] == 8


def test_an_activation_that_is_not_finite_names_its_layer(model, images):
    with torch.no_grad():
        model.stem.bias[0] = 3e38
        model.stem.weight[0] = 3e38
    behind = list(find_layers(model))[1]
    with pytest.raises(InputError, match=rf"^{behind}: its inputs hold NaN or infinity"):
        calibrate_activations(model, images, Mse(), 32)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_an_input_of_zeros_is_no_trouble(model, images):
    with torch.no_grad():
        model.stem.weight.zero_()
        model.stem.bias.zero_()
    student = quantized(model, images, Mse(4))
    settings = LayerReconstruction(observer=ClipSearch(), batch_size=32)
    reconstruct(model, student, images, AttentionRound(num_steps=20), settings)
    with torch.no_grad():
        torch.testing.assert_close(student(images), model(images), rtol=0.2, atol=0.05)
