import copy

import pytest
import torch
from tests.graph.conftest import IMAGE, captured, small
from torch import fx, nn

from attnround.errors import InputError
from attnround.graph import capture, cut, fold_batch_norms
from attnround.graph.localize import localize
from attnround.graph.trace import graph_of


def units(model: nn.Module, granularity: str = "block", image: torch.Tensor = IMAGE):
    return cut(graph_of(model), model, granularity, image)


def folded(name: str) -> nn.Module:
    model = captured(name)
    fold_batch_norms(model)
    return model


def test_an_inverted_residual_is_a_block_with_a_shortcut_or_without():
    found = {unit.name: unit.layers for unit in units(folded("mobilenetv3_small_050"))}
    assert found["blocks.2.0"] == tuple(  # no shortcut, with squeeze and excitation
        f"blocks.2.0.{part}" for part in ("conv_pw", "conv_dw", "se.conv_reduce", "se.conv_expand", "conv_pwl")
    )
    assert len(found["blocks.2.1"]) == 5
    assert found["conv_stem"] == ("conv_stem",)
    assert found["classifier"] == ("classifier",)


def test_an_activation_goes_with_the_block_before_it_and_a_pooling_with_the_one_after():
    first, second, *_ = units(folded("resnet18"))
    assert [node.name for node in first.nodes()] == ["conv1", "bn1", "relu"]
    assert second.nodes()[0].name == "max_pool2d"
    assert second.end.name.startswith("relu")


def test_a_layer_is_cut_with_its_activation(network):
    found = units(network, "layer", torch.zeros(1, 3, 16, 16))
    ends = {unit.name: [node.name for node in unit.nodes()] for unit in found}
    assert ends == {
        "stem": ["stem", "norm", "relu"],
        "depthwise": ["depthwise", "relu_1"],
        "grouped": ["grouped"],  # the sum has another input
        "head": ["head"],
    }
    assert found[1].start is found[0].end


def test_layers_without_an_activation_between_them_stay_apart():
    model = capture(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()), IMAGE)
    for granularity in ("layer", "block"):
        assert [[node.name for node in unit.nodes()] for unit in units(model, granularity)] == [["_0"], ["_1", "relu"]]


def test_a_shortcut_layer_is_cut_from_its_own_input():
    found = {unit.name: unit for unit in units(folded("resnet18"), "layer")}
    shortcut, main = found["layer2.0.downsample.0"], found["layer2.0.conv1"]
    assert shortcut.start is main.start
    assert not set(shortcut.nodes()) & set(main.nodes())


def test_a_wrapped_model_has_the_blocks_of_the_bare_one():
    model = folded("test_efficientnet")
    wrapped = units(capture(Wrapper(small("test_efficientnet")), IMAGE))
    assert [unit.name for unit in wrapped] == [f"inner.{unit.name}" for unit in units(model)]


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def test_the_network_is_one_unit():
    model = folded("test_resnet")
    (unit,) = units(model, "network")
    assert (unit.name, unit.start.op, unit.end.name) == ("network", "placeholder", "fc")
    assert len(unit.layers) == 16


def test_another_granularity_is_refused():
    with pytest.raises(InputError, match=r"granularity=stage: give one of layer, block, network"):
        units(folded("test_resnet"), "stage")


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "test_vit", "test_efficientnet_evos"])
@torch.no_grad()
def test_localizing_changes_no_value_for_any_number_of_images(name):
    model = captured(name)
    graph = graph_of(model)
    values = localize(graph, model, IMAGE)
    images = torch.randn(3, 3, 64, 64)
    assert torch.equal(fx.Interpreter(fx.GraphModule(model, graph)).run(images), model(images))
    once = str(graph)
    assert set(localize(graph, model, IMAGE)) == set(graph.nodes) <= set(values)
    assert str(graph) == once


def test_cutting_leaves_the_model_alone():
    model = folded("test_vit")
    before = copy.deepcopy(model.state_dict())
    units(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Twice(nn.Module):
    """A convolution that is called in two places, another between them and one behind."""

    def __init__(self):
        super().__init__()
        self.stem, self.shared, self.between, self.last = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))

    def forward(self, x):
        x = self.shared(self.stem(x).relu())
        x = self.shared(self.between(x).relu())
        return self.last(x.relu())


def test_a_layer_that_is_called_twice_is_in_one_unit():
    model = capture(Twice(), IMAGE)
    names = ["stem", "shared", "between", "last"]
    layers = units(model, "layer")
    assert [unit.name for unit in layers] == names
    assert [node.name for unit in layers for node in unit.more_inputs] == ["relu_1"]
    assert [unit.layers for unit in units(model)] == [("stem",), ("shared", "between"), ("last",)]
    assert units(model, "network")[0].layers == tuple(names)
