import pytest
import timm
import torch
from tests.graph.conftest import IMAGE, captured, small
from torch import nn

from attnround.errors import InputError
from attnround.graph import capture, find_layers, fold_batch_norms, left_float, swap_layers
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import ClipSearch


@pytest.mark.parametrize("name", ["resnet18", "test_resnet", "test_efficientnet", "test_vit"])
@torch.no_grad()
def test_layers_come_in_the_order_the_model_runs_them(name):
    net, called = small(name), []
    for layer_name, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda *_, layer_name=layer_name: called.append(layer_name))
    net(torch.randn(IMAGE.shape))
    model = captured(name)
    fold_batch_norms(model)
    assert list(find_layers(model)) == called


def test_swapping_leaves_the_float_model_alone(network):
    fold_batch_norms(network)
    layers = find_layers(network)
    before = {name: weight.clone() for name, weight in layers.items()}
    student = swap_layers(network, dict.fromkeys(layers, 2), ClipSearch())
    for name in layers:
        assert isinstance(student.get_submodule(name), QuantizedLayer)
        assert torch.equal(network.get_submodule(name).weight, before[name])
        assert not torch.equal(student.get_submodule(name).layer.weight, before[name])


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module, again: bool = False):
        super().__init__()
        self.inner, self.again = inner, again

    def forward(self, x):
        x = self.inner(x)
        return self.inner(x) if self.again else x


def test_a_layer_that_runs_twice_is_one_layer():
    model = capture(Wrapper(nn.Conv2d(4, 4, 1), again=True), torch.zeros(1, 4, 5, 5))
    assert list(find_layers(model)) == ["inner"]
    assert len(find_layers(capture(Shared(), torch.zeros(1, 4)))) == 1


def test_a_broken_weight_is_named(network):
    with torch.no_grad():
        network.grouped.weight[0, 0, 0, 0] = network.head.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"NaN.*grouped, head"):
        find_layers(network)


class Flow(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Inputs(nn.Module):
    def forward(self, x, mask):
        return x * mask


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(self.one(x))


class Shared(nn.Module):
    """One module under two names."""

    def __init__(self):
        super().__init__()
        self.one = self.two = nn.Linear(4, 4)

    def forward(self, x):
        return self.two(self.one(x))


class Read(nn.Module):
    """A weight that is read where its layer does not run."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) @ self.fc.weight


class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Flow(), r"Flow cannot be handled: torch\.export cannot follow its forward"),
        (Inputs(), r"Inputs cannot be handled: its forward needs x, mask, and only images are given"),
        (Tied(), r"(one|two)_? cannot.*the weight is used elsewhere too"),
        (Read(), r"fc.*the weight is used elsewhere too"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_models_that_cannot_be_handled_are_refused_in_a_line(model, reason):
    with pytest.raises(InputError, match=reason) as refusal:
        find_layers(capture(model, torch.zeros(1, 4)))
    assert "\n" not in str(refusal.value)


def test_a_layer_that_never_runs_is_left_alone():
    assert list(find_layers(capture(Idle(), torch.zeros(1, 4)))) == ["fc"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", []),
        ("test_vit", ["cls_token", "LayerNorm at blocks.0.norm1", "scaled_dot_product_attention at blocks.5.attn"]),
        ("convnext_atto", ["stages.0.blocks.0.gamma", "LayerNorm2d at head.norm"]),
        ("densenet121", ["BatchNorm2d at features.denseblock1.denselayer1.norm1"]),
        ("swin_tiny_patch4_window7_224", ["layers.0.blocks.0.attn.relative_position_bias_table"]),
    ],
)
def test_what_stays_float_is_listed(name, expected):
    model = captured(name)
    fold_batch_norms(model)
    left = left_float(model, list(find_layers(model)))
    assert set(expected) <= set(left)
    assert bool(left) == bool(expected)
    assert len(set(left)) == len(left)


def test_timms_own_linear_is_a_linear_layer():
    model = capture(nn.Sequential(timm.layers.Linear(4, 3)), torch.zeros(1, 4))
    assert list(find_layers(model)) == ["0"]
