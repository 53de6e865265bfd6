"""A graph must compute what the model does, whatever the model changes in place; or be refused."""

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from attnround.errors import InputError
from attnround.models.trace import trace


class Model(nn.Module):
    def __init__(self, tail):
        super().__init__()
        self.conv, self.act, self.same = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.Identity()
        self.gain = nn.Parameter(torch.tensor(0.3))
        self.tail = tail

    def forward(self, x):
        return self.tail(self, x, self.conv(x))


def nothing_returned(model, image, x):
    x.mul_(model.gain)
    return x + image


def old_name_used(model, image, x):
    y = x.sub_(1)
    return x * y


def chained(model, image, x):
    return x.add_(1).clamp_(min=0).mul_(2) + image


def assigned(model, image, x):
    x += image
    x *= 2
    return x


def behind_an_identity(model, image, x):
    return model.same(x).mul_(model.gain) + image


def functions(model, image, x):
    return functional.relu(torch.sigmoid_(x) - 0.5, True) + functional.silu(image, inplace=False)


def module(model, image, x):
    return model.act(x) + image


def number(model, image, x):
    side = x.shape[2]
    double = side * 1
    double += side
    double *= 2
    return x.flatten(2)[:, :, : double // 4] + side


@pytest.mark.parametrize(
    "tail", [nothing_returned, old_name_used, chained, assigned, behind_an_identity, functions, module, number]
)
@torch.no_grad()
def test_the_graph_computes_what_the_model_does_and_changes_nothing(tail):
    torch.manual_seed(0)
    model = Model(tail)
    x = torch.randn(2, 3, 4, 4)
    expected = model(x.clone())
    graph = trace(model)
    values = {}

    class Keep(fx.Interpreter):
        def run_node(self, n):
            value = super().run_node(n)
            values[n] = (value, value.clone()) if isinstance(value, torch.Tensor) else None
            return value

    assert torch.equal(Keep(fx.GraphModule(model, graph), garbage_collect_values=False).run(x), expected)
    for node, kept in values.items():
        assert kept is None or torch.equal(*kept), node


def view_used_later(model, image, x):
    y = x.flatten(1)
    x.mul_(2)
    return y + x.flatten(1)


def base_used_later(model, image, x):
    y = x[:, :1]
    y.zero_point = None
    y.mul_(2)
    return x + y


def shortcut_behind_an_identity(model, image, x):
    return model.same(x).mul_(2) + x


def assignment_under_two_names(model, image, x):
    y = x
    x += image
    return x + y


def module_under_two_names(model, image, x):
    return model.act(x) + x


def filled(model, image, x):
    return x.fill_(1.0)


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (view_used_later, "mul_.*in place"),
        (base_used_later, "mul_.*in place"),
        (shortcut_behind_an_identity, "mul_.*in place"),
        (assignment_under_two_names, "iadd.*in place"),
        (module_under_two_names, "act.*in place"),
        (filled, "fill_ works in place"),
    ],
)
def test_what_another_name_may_see_is_refused(tail, reason):
    with pytest.raises(InputError, match=reason):
        trace(Model(tail))
