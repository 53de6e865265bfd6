"""Reparametrised LayerNorms: the outputs stay, and all channels of a norm's output have one range."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.graph.conftest import captured
from torch import nn

from attnround.graph import LayerNorms, capture
from attnround.graph.layer_norms import channel_ranges, find_norms


def uneven(model: nn.Module, seed: int = 0, width: float = 2.0) -> nn.Module:
    """In float64, with norms whose channels differ in range by this power of e, and one that is the same everywhere."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(torch.randn(len(parameter), generator=generator).mul(width).exp())
                parameter[0] = 0
            elif "norm" in name:
                parameter.normal_(generator=generator)
    return model


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), width=st.floats(0, 3))
@torch.no_grad()
def test_outputs_stay(seed, width):
    model = uneven(captured("test_vit"), seed, width)
    expected = model(images(seed))
    assert LayerNorms().equalize(model, {}, images()).startswith("12 LayerNorms, channels scaled by up to ")
    assert (model(images(seed)) - expected).abs().max() <= 1e-10 * expected.abs().max()


@torch.no_grad()
def test_all_channels_have_one_range():
    model = uneven(captured("test_vit"))
    _, takers = find_norms(model)[0]
    low, high = channel_ranges(model, takers, images())[takers[0]]
    assert (high - low)[1:].max() > 10 * (high - low)[1:].min()
    LayerNorms().equalize(model, {}, images())
    low, high = channel_ranges(model, takers, images())[takers[0]]
    assert (high - low)[0] == 0  # it never varied
    torch.testing.assert_close(low[1:], low[1].expand(len(low) - 1))
    torch.testing.assert_close(high[1:], high[1].expand(len(high) - 1))


@pytest.mark.parametrize("gain", [1e-2, 1e-5, 0.0])
@torch.no_grad()
def test_a_channel_that_hardly_varies_takes_no_range_from_the_others(gain):
    """Far from zero it lies below every common range, and its own part below zero is a huge number."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 4))
    net[0].bias.normal_(0, 0.3)
    net[0].weight[3], net[0].bias[3] = gain, 0.5
    x = torch.randn(64, 16)
    model, expected = capture(net.eval(), x[:1]), net(x)
    LayerNorms().equalize(model, {}, x)
    low, high = channel_ranges(model, ["1"], x)["1"]
    assert low.min() <= 0 <= high.max()
    assert high.max() - low.min() <= 1.01 * (high - low).max()
    assert (model(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


class Attention(nn.Module):
    """A norm that two linear layers take, one of them without a bias."""

    def __init__(self, more: bool = False):
        super().__init__()
        self.norm, self.more = nn.LayerNorm(64), more
        self.one, self.two = nn.Linear(64, 4, bias=False), nn.Linear(64, 4)

    def forward(self, x):
        x = self.norm(x.flatten(2))
        y = self.one(x) * self.two(x)
        return y + x[..., :4] if self.more else y


@torch.no_grad()
def test_all_that_take_a_norm_make_up_for_it():
    net = uneven(Attention())
    x = images()[..., :8, :8]
    model = capture(net, x[:1])
    assert LayerNorms().equalize(model, {}, x).startswith("1 LayerNorms")
    torch.testing.assert_close(model(x), net(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("net", [Attention(more=True), nn.Sequential(nn.Flatten(), nn.Linear(192, 2))])
@torch.no_grad()
def test_what_something_else_takes_too_stays(net):
    x = images()[..., :8, :8]
    model = capture(net.double(), x[:1])
    before = copy.deepcopy(model.state_dict())
    assert LayerNorms().equalize(model, {}, x).startswith("nothing can be equalized: no LayerNorm")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
