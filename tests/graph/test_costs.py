import pytest
import timm
import torch
from tests.graph.conftest import IMAGE, captured
from torch import nn

from attnround.graph import capture, find_layers, fold_batch_norms
from attnround.graph.costs import count_macs, count_places, residual_groups


def built(name: str) -> torch.nn.Module:
    model = captured(name)
    fold_batch_norms(model)
    return model


def test_macs_of_a_known_network():
    """ResNet-18 at 224 pixels is 1.81 GMACs with 1,000 classes (arXiv 1512.03385: 1.8 billion)."""
    model = capture(timm.create_model("resnet18"), torch.zeros(1, 3, 224, 224))
    names = list(find_layers(model))
    macs = count_macs(model, names, torch.zeros(1, 3, 224, 224))
    assert sum(macs.values()) == pytest.approx(1.814e9, rel=1e-3)
    assert macs["conv1"] == 64 * 3 * 49 * 112 * 112
    assert macs["fc"] == 512 * 1000


def test_depthwise_and_token_layers_are_counted_by_what_they_multiply():
    model = built("test_efficientnet")
    names = list(find_layers(model))
    macs = count_macs(model, names, IMAGE)
    depthwise = next(name for name in names if model.get_submodule(name).groups > 1)
    layer = model.get_submodule(depthwise)
    assert macs[depthwise] == layer.out_channels * 9 * 4 * 4


def test_places_are_pixels_and_tokens_of_every_call():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.shared = nn.Conv2d(3, 8, 2, stride=2), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.conv(x).flatten(2).mT
            return self.shared(self.shared(tokens)).mean(1)

    image = torch.zeros(1, 3, 8, 6)
    assert count_places(capture(Twice(), image), ["conv", "shared"], image) == {"conv": 12, "shared": 24}


def test_the_layers_of_a_residual_stage_meet_in_its_sums():
    model = capture(timm.create_model("resnet18"), IMAGE)
    fold_batch_norms(model)
    groups = residual_groups(model)
    assert [
        "layer2.0.conv2",
        "layer2.0.downsample.0",
        "layer2.1.conv2",
    ] in groups
    assert ["conv1", "layer1.0.conv2", "layer1.1.conv2"] in groups
    assert len(groups) == 4


def test_inverted_residuals_meet_where_there_is_a_shortcut():
    groups = residual_groups(built("mobilenetv3_small_050"))
    assert groups
    assert all(name.endswith(("conv_pwl", "conv_pw")) for group in groups for name in group)
    assert not {"conv_stem", "classifier"} & {name for group in groups for name in group}


class Mixing(nn.Module):
    """Attention with a bias on its scores, and a sum whose one term is scaled as by squeeze-and-excitation."""

    def __init__(self):
        super().__init__()
        for name in ("stem", "query", "key", "value", "branch", "reduce"):
            self.add_module(name, nn.Linear(6, 6))
        self.bias = nn.Parameter(torch.zeros(4, 4))

    def forward(self, x):
        x = self.stem(x.flatten(2).mT)
        scores = self.query(x) @ self.key(x).mT + self.bias
        x = x + scores.softmax(-1) @ self.value(x)
        y = self.branch(x)
        return x + y * self.reduce(y.mean(1, keepdim=True)).sigmoid()


def test_scores_and_gates_are_not_what_a_sum_adds():
    assert residual_groups(capture(Mixing(), torch.zeros(1, 6, 2, 2))) == [["stem", "branch"]]


def test_a_plain_network_has_none():
    assert residual_groups(built("vgg11_bn")) == []
