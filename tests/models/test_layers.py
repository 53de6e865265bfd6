import pytest
import timm
import torch
from timm.layers import StdConv2d
from torch import nn

from attnround.errors import InputError
from attnround.models import find_layers, fold_batch_norms, swap_layers
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import ClipSearch

FAMILIES = ["resnet18", "mobilenetv2_050", "tf_efficientnet_lite0", "test_resnet", "test_efficientnet", "test_vit"]


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_layers_come_in_the_order_the_model_runs_them(name):
    model = timm.create_model(name).eval()
    fold_batch_norms(model)
    called = []
    for layer_name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda *_, layer_name=layer_name: called.append(layer_name))
    size = model.pretrained_cfg["input_size"][-1] if "vit" in name else 64
    model(torch.randn(1, 3, size, size))
    assert [layer.name for layer in find_layers(model)] == called


def test_swapping_leaves_the_float_model_alone(network):
    fold_batch_norms(network)
    layers = find_layers(network)
    before = {layer.name: layer.weight.clone() for layer in layers}
    student = swap_layers(network, {layer.name: 2 for layer in layers}, ClipSearch())
    for layer in layers:
        assert isinstance(student.get_submodule(layer.name), QuantizedLayer)
        assert torch.equal(network.get_submodule(layer.name).weight, before[layer.name])
        assert not torch.equal(student.get_submodule(layer.name).layer.weight, before[layer.name])


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module, again: bool = False):
        super().__init__()
        self.inner, self.again = inner, again

    def forward(self, x):
        x = self.inner(x)
        return self.inner(x) if self.again else x


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Wrapper(StdConv2d(4, 4, 1)), "inner.*may change its weight"),
        (Wrapper(nn.Conv2d(4, 4, 1), again=True), "inner.*more than once"),
        (Wrapper(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), "inner.*reflect"),
        (Wrapper(nn.Conv1d(4, 4, 1)), "inner.*only Conv2d and Linear"),
    ],
)
def test_what_cannot_be_handled_is_named_with_the_reason(model, reason):
    with pytest.raises(InputError, match=reason):
        find_layers(model.eval())


def test_a_broken_weight_is_named(network):
    with torch.no_grad():
        network.grouped.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"grouped.*NaN"):
        find_layers(network)


def test_control_flow_on_the_data_is_refused():
    class Flow(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match=r"Flow.*traced"):
        find_layers(Flow())


def test_a_method_that_works_in_place_is_refused():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            x = self.conv(x)
            x.relu_()
            return x

    with pytest.raises(InputError, match="relu_"):
        find_layers(InPlace())


def test_timms_own_linear_is_a_linear_layer():
    model = nn.Sequential(timm.layers.Linear(4, 3)).eval()
    assert [layer.name for layer in find_layers(model)] == ["0"]
