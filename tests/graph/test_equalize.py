"""Equalization changes no output, evens out ranges, and leaves alone what it must."""

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from attnround.graph import QUANTIZABLE, Captured, CrossLayer, capture, find_caps, fold_batch_norms, norms_to_fold
from attnround.graph.equalize import MOST, absorb_biases, equalize_pairs
from attnround.graph.pairs import cap_channels, find_pairs

SIDE = 9
ACTIVATIONS = {
    "none": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky": lambda: nn.LeakyReLU(0.1),
    "capped": lambda: nn.Hardtanh(0.0, 2.0), "prelu": nn.PReLU, "clamped": lambda: Clamp(min=0),
    "clamped and capped": lambda: Clamp(0, 3),
}  # fmt: skip


class Clamp(nn.Module):
    """A ReLU by another name, or one with a limit."""

    def __init__(self, *limits, **named):
        super().__init__()
        self.limits, self.named = limits, named

    def forward(self, x):
        return x.clamp(*self.limits, **self.named)


def spread(net: nn.Module, seed: int, width: float = 2.0, dead: float = 0.1) -> nn.Module:
    """The network in float64 with new weights, whose channels differ in range by this power of e; a part has none."""
    generator = torch.Generator().manual_seed(seed)
    net = net.double().eval()
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, QUANTIZABLE):
                for parameter in layer.parameters():
                    parameter.normal_(generator=generator)
                for axis in (0, 1):
                    sizes = [1] * layer.weight.ndim
                    sizes[axis] = -1
                    factor = torch.randn(layer.weight.shape[axis], generator=generator).mul(width).exp()
                    factor[torch.rand(len(factor), generator=generator) < dead] = 0
                    layer.weight *= factor.double().reshape(sizes)
    return net


def images(seed: int = 0, side: int = SIDE) -> torch.Tensor:
    return torch.randn(3, 4, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@functools.cache
def all_kinds(activation: str) -> Captured:
    """Layers of all kinds in a row, with this activation and all that may lie between them."""
    parts = [
        nn.Conv2d(4, 6, 3), ACTIVATIONS[activation](), nn.MaxPool2d(2, 1),
        nn.Conv2d(6, 6, 3, padding=1), ACTIVATIONS[activation](), nn.AvgPool2d(2, 1, padding=1),
        nn.Conv2d(6, 6, 3, padding=1, groups=6), ACTIVATIONS[activation](), nn.ZeroPad2d((0, 1, 1, 0)),
        nn.Conv2d(6, 12, 3, groups=2), ACTIVATIONS[activation](),
        nn.ConvTranspose2d(12, 6, 2, groups=3), ACTIVATIONS[activation](), nn.AdaptiveAvgPool2d(2),
        nn.Conv2d(6, 6, 1, bias=False), nn.Flatten(),
        nn.Linear(24, 5), ACTIVATIONS[activation](), nn.Linear(5, 3),
    ]  # fmt: skip
    return capture(nn.Sequential(*parts).double().eval(), images()[:1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), width=st.floats(0, 3), dead=st.floats(0, 0.3))
@torch.no_grad()
def test_outputs_stay(activation, seed, width, dead):
    model = spread(copy.deepcopy(all_kinds(activation)), seed, width, dead)
    expected = model(images(seed))
    assert "7 pairs of layers" in CrossLayer().equalize(model, {}, images())
    assert (model(images(seed)) - expected).abs().max() <= 1e-10 * expected.abs().max()


@torch.no_grad()
def test_ranges_of_a_depthwise_block_are_even():
    """The three layers of an inverted residual, each channel's ranges of which end alike on both sides."""
    torch.manual_seed(0)
    net = spread(nn.Sequential(
        nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    ), 3)  # fmt: skip
    model = capture(net, images()[:1])
    one, two, three = (model.get_submodule(name) for name in "024")
    CrossLayer().equalize(model, {}, images())
    ranges = [one.weight.abs().amax((1, 2, 3)), two.weight.abs().amax((1, 2, 3)), three.weight.abs().amax((0, 2, 3))]
    alive = torch.stack(ranges).amin(0) > 0
    assert 4 <= alive.sum() < 8
    for other in ranges[1:]:
        torch.testing.assert_close(ranges[0][alive], other[alive], rtol=0.01, atol=0.0)


@torch.no_grad()
def test_float32_outputs_are_equal_to_rounding():
    net = spread(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU6(), nn.Conv2d(8, 3, 3)), 1).float()
    x = images().float()
    model = capture(net, x[:1])
    CrossLayer().equalize(model, {}, images())
    torch.testing.assert_close(model(x), net(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_channel_of_hardly_any_weights_gets_no_huge_bias():
    net = nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1)).double()
    net[0].weight[1] = 1e-12
    net[0].bias[1] = 1
    model = capture(net, images()[:1])
    CrossLayer().equalize(model, {}, images())
    assert model.get_submodule("0").bias[1].item() == pytest.approx(MOST)
    torch.testing.assert_close(model(images()), net(images()), rtol=1e-10, atol=1e-10)


class Joined(nn.Module):
    """Two layers and what lies between them, as `between` says."""

    def __init__(self, between):
        super().__init__()
        self.one, self.two, self.between = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), between

    def forward(self, x):
        return self.between(self.one, self.two, functional.relu, x)


NOT_PAIRS = {
    "a sum takes it too": lambda one, two, relu, x: two(relu(one(x))) + one(x),
    "it is an output too": lambda one, two, relu, x: (two(y := relu(one(x))), y),
    "it is added to": lambda one, two, relu, x: two(relu(one(x) + x)),
    "GELU": lambda one, two, relu, x: two(functional.gelu(one(x))),
    "a sigmoid": lambda one, two, relu, x: two(one(x).sigmoid()),
    "a clamp from below zero": lambda one, two, relu, x: two(one(x).clamp(-1, 2)),
    "a ReLU6 in a ReLU6": lambda one, two, relu, x: two(functional.relu6(one(x)).clamp(0, 2)),
    "channels that change places": lambda one, two, relu, x: two(relu(one(x)).transpose(1, 2)[:, :4]),
    "a padding with ones": lambda one, two, relu, x: two(functional.pad(relu(one(x)), (1, 1), value=1.0)),
    "a layer that runs twice": lambda one, two, relu, x: two(relu(two(relu(one(x))))),
    "a mean of channels": lambda one, two, relu, x: two(relu(one(x)).mean(1, keepdim=True).expand(-1, 4, -1, -1)),
}


@pytest.mark.parametrize("name", NOT_PAIRS)
@torch.no_grad()
def test_what_is_no_pair_stays(name):
    net = Joined(NOT_PAIRS[name]).double().eval()
    model = capture(net, images(side=4)[:1])
    before = copy.deepcopy(model.state_dict())
    said = CrossLayer().equalize(model, {}, images())
    assert said.startswith("nothing can be equalized: no layer gives to another alone")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@torch.no_grad()
def test_a_pool_over_rows_pools_their_values():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(36, 16), nn.Linear(16, 5)

        def forward(self, x):
            return self.two(functional.max_pool1d(self.one(x.flatten(1)).relu(), 3, 1, 1))

    model = capture(Rows().double().eval(), images(side=3)[:1])
    assert not find_pairs(model)


@torch.no_grad()
def test_caps_are_put_where_a_file_says():
    net = nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU6(), nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)).double()
    x = 9 * images()
    model = capture(net, x[:1])
    cap_channels(model, ["0"])
    assert torch.equal(model(x), net(x))
    assert {name: cap.limit.flatten().tolist() for name, cap in find_caps(model).items()} == {"0": [6, 6, 6]}
    with pytest.raises(LookupError, match="2"):
        cap_channels(model, ["2"])


class Normed(nn.Sequential):
    """Layers with batch norms whose first channel's mean is above three deviations, and its second's is not."""

    def __init__(self, activation: nn.Module, padding: int = 0):
        norm = nn.BatchNorm2d(2)
        norm.weight.data, norm.bias.data = torch.tensor([-0.2, 0.2]), torch.tensor([2.0, 0.5])
        super().__init__(nn.Conv2d(4, 2, 1), norm, activation, nn.Conv2d(2, 3, 3, padding=padding, bias=False))
        self.double().eval()


@pytest.mark.parametrize("activation", ["relu", "relu6"])
@torch.no_grad()
def test_a_high_bias_goes_into_the_next_one(activation):
    torch.manual_seed(0)
    net, x = Normed(ACTIVATIONS[activation]()), images()
    x *= 0.5 / net[0](x).abs().max()  # so that the first channel stays above 2 - 3 0.2
    model = capture(net, x[:1])
    norms = norms_to_fold(model)
    fold_batch_norms(model)
    bias = model.get_submodule("0").bias.clone()
    pairs = find_pairs(model)
    cap_channels(model, [pair.first for pair in pairs if pair.cap is not None])
    scale = equalize_pairs(model, pairs)["0"]
    assert absorb_biases(model, pairs, norms, {"0": scale}) == 1
    moved = bias - model.get_submodule("0").bias * scale
    torch.testing.assert_close(moved, torch.tensor([1.4, 0.0]).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model(x), net(x), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_not_where_the_next_layer_pads():
    net = Normed(nn.ReLU(), padding=1)
    model = capture(net, images()[:1])
    norms = norms_to_fold(model)
    fold_batch_norms(model)
    assert CrossLayer(absorb_bias=True).equalize(model, norms, images()).endswith("the biases of 0 absorbed")
    torch.testing.assert_close(model(images()), net(images()), rtol=1e-10, atol=1e-10)
