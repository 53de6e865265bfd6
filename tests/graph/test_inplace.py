"""An operation in place becomes one that gives a new tensor only where that is the same."""

import pytest
import torch
from torch import nn

from attnround.graph import capture
from attnround.graph.inplace import out_of_place

relu6 = nn.functional.relu6


def chained(x):
    return relu6(x, inplace=True).mul_(2).add_(torch.ones(1))


def read_again(x):
    return relu6(x, inplace=True) + x


def seen_by_a_view(x):
    flat = x.flatten(1)
    return relu6(x, inplace=True).flatten(1) + flat


def of_another_type(x):
    return x.add_(torch.ones(1, 4, 1, 1, dtype=torch.float64)).relu_()


def compared(x):
    return x.gt_(0) + x


def raised(x):
    x **= 2
    return x


class Net(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.conv, self.change = nn.Conv2d(3, 4, 3), change

    def forward(self, x):
        return self.change(self.conv(x))


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (chained, []),
        (read_again, []),
        (seen_by_a_view, ["relu6_"]),
        (of_another_type, ["add_", "relu_"]),
        (compared, ["gt_"]),
        (raised, ["pow_"]),
    ],
)
@torch.no_grad()
def test_only_what_nothing_else_sees_is_replaced(change, left):
    torch.manual_seed(0)
    net, images = Net(change).eval(), torch.randn(2, 3, 8, 8)
    graph = torch.export.export(net, (images,), strict=False).graph
    out_of_place(graph)
    names = [node.target._schema.name.removeprefix("aten::") for node in graph.nodes if node.op == "call_function"]
    assert [name for name in names if name.endswith("_")] == left
    found, wanted = capture(net, images[:1])(images), net(images)
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)
