"""Opsets: what torch's exporter writes in 18 runs in every other from 13 on, and gives the same."""

import pytest
import torch
from tests.deploy.conftest import SMALL
from tests.slow import parameters
from torch import nn
from torch.nn import functional

from attnround.deploy.marked import float_graph
from attnround.deploy.opset import OLDEST
from attnround.deploy.runtime import newest_opset
from attnround.deploy.session import run, session
from attnround.errors import InputError
from attnround.graph import capture


class Variety(nn.Module):
    """Operations that ONNX changed over time: sizes, means, parts, norms and activations that older opsets lack."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, 8)
        self.layer_norm, self.group_norm = nn.LayerNorm(8), nn.GroupNorm(2, 8)

    def forward(self, x):
        x = functional.hardswish(self.group_norm(self.conv(functional.pad(x, (1, 2, 1, 2)))))
        x = functional.interpolate(x, scale_factor=2.0) + functional.adaptive_avg_pool2d(x, 1)
        one, two = functional.mish(x).flatten(2).mT.chunk(2, dim=1)
        tokens = self.layer_norm(torch.cat([one, functional.gelu(two)], 1))
        heads = self.linear(tokens).reshape(x.shape[0], -1, 2, 4).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(heads, heads, heads)
        return mixed.amax(2).flatten(1) + mixed.mean((2, 3)).sum(1, keepdim=True)


@pytest.fixture(scope="module")
def variety() -> nn.Module:
    torch.manual_seed(0)
    model = capture(Variety(), torch.zeros(1, 3, 32, 32))
    model.preprocessing = SMALL
    return model


@pytest.mark.parametrize("opset", parameters([*range(OLDEST, 20), 21, 23, newest_opset()], {14, 15, 16, 17, 19, 23}))
@torch.no_grad()
def test_every_opset_gives_the_same(variety, opset):
    graph, images = float_graph(variety, opset), torch.randn(3, 3, 32, 32)
    assert {each.version for each in graph.opset_import if not each.domain} == {opset}
    taken = {name for node in graph.graph.node for name in node.input}
    assert {each.name for each in graph.graph.initializer} <= taken
    found = run(session(graph.SerializeToString(), "x"), images)
    torch.testing.assert_close(found, variety(images), rtol=1e-4, atol=1e-5)


class Sampled(nn.Module):
    def forward(self, x):
        return functional.grid_sample(x, x[:, :2].movedim(1, -1))


def test_a_graph_that_no_file_can_hold_is_told(monkeypatch):
    monkeypatch.setattr("attnround.deploy.opset.MOST_BYTES", 10_000)
    model = nn.Conv2d(3, 1000, 1)
    model.preprocessing = SMALL
    for opset in (17, 18, 21):
        with pytest.raises(InputError, match=r"the float graph has 0\.0 GiB, and a file of ONNX at most 2: use \.pt2"):
            float_graph(model, opset)


def test_what_an_opset_lacks_is_named():
    model = capture(Sampled(), torch.zeros(1, 3, 32, 32))
    model.preprocessing = SMALL
    with pytest.raises(InputError, match="opset 13, which has no GridSample as it is needed here: try another"):
        float_graph(model, 13)
