"""Which branches meet a layer's output, and whether the drift that it takes up is the one that they bring."""

import copy

import pytest
import torch
from tests.graph.conftest import captured
from torch import fx, nn

from attnround.graph import capture, cut, find_layers, fold_batch_norms
from attnround.graph.branches import find_branches
from attnround.graph.kinds import QUANTIZABLE
from attnround.graph.layers import operation
from attnround.graph.trace import calls, executor, graph_of

WIDTH = 6


def conv(stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(WIDTH, WIDTH, 3, stride, padding=1)


class Net(nn.Module):
    """A stem, what the case is about, a pooling and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.one, self.two, self.three = conv(), conv(), conv()
        self.gate = nn.Conv2d(WIDTH, WIDTH, 1)
        self.head = nn.Linear(WIDTH, 4)
        self.gamma = nn.Parameter(torch.rand(WIDTH, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.randn(WIDTH, 1, 1))
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.head(self.middle(self.stem(x).relu()).mean((2, 3)))


class Identity(Net):
    def middle(self, x):
        return (self.two(self.one(x).relu()) + x).relu()


class Exchanged(Net):
    def middle(self, x):
        return (x + self.two(self.one(x).relu())).relu()


class DownsampleLast(Net):
    def middle(self, x):
        y = self.two(self.one(x).relu())
        return (y + self.three(x)).relu()


class DownsampleFirst(Net):
    def middle(self, x):
        shortcut = self.three(x)
        return (self.two(self.one(x).relu()) + shortcut).relu()


class InvertedResidual(Net):
    def middle(self, x):
        x = self.two(self.one(x).relu()) + x
        return self.three(x).relu() + x


class Preactivation(Net):
    """The sum is used twice: by the next block and by the next sum."""

    def middle(self, x):
        x = x + self.one(x.relu())
        return x + self.two(x.relu())


class Transformer(Net):
    def middle(self, x):
        n, c, height, width = x.shape
        x = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=2)
        x = x + self.proj((q @ k.transpose(1, 2)).softmax(2) @ v)
        x = x + self.down(self.up(self.norm(x)).relu())
        return x.transpose(1, 2).reshape(n, c, height, width)


class ConvNeXt(Net):
    """A scale of each channel and a permutation between the last layer and the sum."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def middle(self, x):
        y = self.norm(self.one(x).permute(0, 2, 3, 1))
        y = self.down(self.up(y).relu()) * self.gamma
        return y.permute(0, 3, 1, 2) + x


class Windows(Net):
    """The layer sees windows in place of images, as in Swin."""

    def middle(self, x):
        n, c, _, _ = x.shape
        y = x.reshape(n, c, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        y = self.proj(y).reshape(-1, 2, 2, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, 8, 8)
        return x + y.roll((1, 2), (2, 3))


class Nested(Net):
    """Scales on the way, between the sums, and of a sum's other term."""

    def middle(self, x):
        a = self.one(x)
        y = torch.add(a, self.two(x) / 2 + self.shift, alpha=3)
        return x - y * self.gamma


class Later(Net):
    """What is added behind the first sum comes from a layer that runs later."""

    def middle(self, x):
        return (self.one(x) + x) + self.two(x)


class Concatenation(Net):
    def middle(self, x):
        return self.gate(torch.cat([self.one(x), x], 1)[:, :WIDTH]) * x


class Gate(Net):
    def middle(self, x):
        y = self.one(x)
        return y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid() + x


class UsedTwice(Net):
    def middle(self, x):
        y = self.one(x)
        return (y + x) * y.mean()


class Activated(Net):
    def middle(self, x):
        return self.one(x).relu() + x


class Pooled(Net):
    def middle(self, x):
        return nn.functional.avg_pool2d(self.one(x), 3, 1, 1) + x


class Broadcast(Net):
    def middle(self, x):
        return self.one(x) + x.mean((2, 3), keepdim=True)


class Squared(Net):
    def middle(self, x):
        y = self.one(x)
        return self.shift / (y * y).mul(1.0) + x


class CalledTwice(Net):
    def middle(self, x):
        return self.one(self.one(x)) + x


CASES = {  # network: {layer: its operands}, of the layers that have some
    Identity: {"two": ["relu"]},
    Exchanged: {"two": ["relu"]},
    DownsampleLast: {"three": ["two"]},
    DownsampleFirst: {"two": ["three"]},
    InvertedResidual: {"two": ["relu"]},
    Preactivation: {"one": ["relu"], "two": ["add"]},
    Transformer: {"proj": ["transpose"], "down": ["add"]},
    ConvNeXt: {"down": ["relu"]},
    Windows: {"proj": ["relu"]},
    Nested: {"two": ["one", "relu"]},
    Later: {"one": ["relu"], "two": ["add"]},
    Concatenation: {},
    Gate: {},
    UsedTwice: {},
    Activated: {},
    Pooled: {},
    Broadcast: {},
    Squared: {},
    CalledTwice: {},
}


class Recorder(fx.Interpreter):
    """Notes the value of every node, and takes those that are given in place of what a node would compute."""

    def __init__(self, interpreter: fx.Interpreter, given: dict | None = None):
        super().__init__(interpreter.module, garbage_collect_values=False)
        self.given, self.seen = given or {}, {}

    def run_node(self, n):
        self.seen[n] = self.given[n] if n in self.given else super().run_node(n)
        return self.seen[n]


class Case:
    """A network in float64, and the same with what a layer's branches depend on changed."""

    def __init__(self, kind: type[Net]):
        torch.manual_seed(0)
        self.x = torch.randn(3, 3, 8, 8).double()
        self.model = capture(kind().double(), self.x[:1]).requires_grad_(False)
        self.graph = graph_of(self.model)
        cut(self.graph, self.model, "layer", self.x[:1])
        self.branches = {name: find_branches(name, self.graph, self.model) for name in find_layers(self.model)}

    def changed(self) -> nn.Module:
        model = copy.deepcopy(self.model)
        for name in find_layers(model):
            weight = model.get_submodule(name).weight
            weight += 0.1 * torch.randn_like(weight)
        return model

    def values(self, model: nn.Module, given: dict | None = None) -> dict:
        recorder = Recorder(executor(model, self.graph), given)
        recorder.run(self.x)
        return recorder.seen

    def output(self, given: dict) -> torch.Tensor:
        return list(self.values(self.model, given).values())[-1]


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_the_operands_are_those_that_are_final_before_the_layer(kind):
    found = {
        name: [node.target if node.op == "call_module" else operation(node) for node in branches.operands]
        for name, branches in Case(kind).branches.items()
        if branches.operands
    }
    assert found == CASES[kind]


@pytest.mark.parametrize("kind", [kind for kind in CASES if CASES[kind]], ids=lambda kind: kind.__name__)
def test_the_output_with_the_residual_added_does_to_the_network_what_the_operands_drift_does(kind):
    """With all layers' outputs fixed but the head's, it cannot tell y + r from the operands of the changed model."""
    case = Case(kind)
    layers = [node for node in calls(case.graph, case.model, QUANTIZABLE) if node.target != "head"]
    for branches in case.branches.values():
        if not branches.operands:
            continue
        values, changed = case.values(case.model), case.values(case.changed())
        residual, y = branches.residual(values, changed), values[branches.layer]
        assert residual.shape == y.shape
        assert residual.abs().max() > 0.01
        fixed = {node: values[node] for node in layers}
        given = case.output(fixed | {branches.layer: y + residual})
        wanted = case.output(fixed | {node: changed[node] for node in branches.operands})
        torch.testing.assert_close(given, wanted, rtol=1e-9, atol=1e-11)
        assert (wanted - case.output(fixed)).abs().max() > 1e-3


def test_what_a_scale_of_nearly_zero_leaves_alone_is_not_made_up_for():
    case = Case(ConvNeXt)
    case.model.gamma[:] = torch.tensor([1.0, -2.0, 0.0, 0.5, 1e-3, 3.0])
    branches = case.branches["down"]
    values, changed = case.values(case.model), case.values(case.changed())
    residual = branches.residual(values, changed)
    (operand,) = branches.operands
    drift = (changed[operand] - values[operand]).permute(0, 2, 3, 1)
    torch.testing.assert_close(residual, drift * torch.tensor([1.0, -0.5, 0.0, 2.0, 0.0, 1 / 3]).double())


@pytest.mark.parametrize(("name", "num_layers"), [
    ("resnet18", 4), ("densenet121", 0), ("convnext_atto", 4), ("test_vit", 12), ("swin_tiny_patch4_window7_224", 8),
    pytest.param("Levit", 8, marks=pytest.mark.slow), pytest.param("vgg11_bn", 0, marks=pytest.mark.slow),
    pytest.param("mobilenetv3_small_050", 7, marks=pytest.mark.slow),
])  # fmt: skip
def test_layers_of_real_networks(name, num_layers):
    model = captured(name)
    fold_batch_norms(model)
    graph = graph_of(model)
    cut(graph, model, "layer", torch.zeros(1, 3, 64, 64))
    found = [find_branches(layer, graph, model) for layer in find_layers(model)]
    place = {node: i for i, node in enumerate(graph.nodes)}
    taken = [branches for branches in found if branches.operands]
    assert all(place[node] < place[branches.layer] for branches in taken for node in branches.operands)
    assert len(taken) == num_layers
