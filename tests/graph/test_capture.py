"""Whatever a forward does, what is captured gives its logits to the bit, and its layers are modules."""

import copy
import pickle

import pytest
import torch
from tests.conftest import same_state
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from attnround.errors import InputError
from attnround.graph import (
    capture,
    channels_last,
    class_logits,
    cut,
    find_layers,
    fold_batch_norms,
    joined,
    left_float,
)
from attnround.graph.trace import executor, graph_of

IMAGE = torch.zeros(1, 3, 8, 8)


class Functional(nn.Module):
    """Operations on parameters of its own, one of them with a name that is no weight's."""

    def __init__(self):
        super().__init__()
        self.weight, self.projection = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(5, 4))

    def forward(self, x):
        return nn.functional.linear(nn.functional.conv2d(x, self.weight, padding=1).mean((2, 3)), self.projection)


class InPlace(nn.Module):
    """Changes a value that a view sees, and a parameter called weights."""

    def __init__(self):
        super().__init__()
        self.conv, self.weights = nn.Conv2d(3, 4, 1), nn.Parameter(torch.ones(2))

    def forward(self, x):
        x = self.conv(x)
        y = x.view(x.shape[0], -1)
        x.mul_(2).clamp_(min=-1)
        share = self.weights.softmax(0)
        return share[0] * y + share[1] * x.flatten(1)


class Standardised(nn.Module):
    """A weight that is computed from its parameter, a table of the code's own, a bias of two parts."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.part = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Parameter(torch.randn(2))
        self.norm.running_var.uniform_(0.5, 2)
        self.head = nn.Linear(4, 4, bias=False)

    def forward(self, x):
        weight = self.conv.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        x = self.norm(nn.functional.conv2d(x, weight, self.conv.bias)).mean((2, 3))
        bias = torch.cat([self.part, torch.zeros_like(self.part)])
        return nn.functional.linear(x, self.head.weight, bias) + torch.arange(4)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attend = nn.Conv2d(3, 8, 4, stride=4), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.attend(x, x, x, need_weights=False)[0].mean(1)


def parametrized(how):
    return lambda: nn.Sequential(how(nn.Conv2d(3, 4, 3)), nn.ReLU(inplace=True), nn.Flatten())


FORWARDS = {
    "functional": (Functional, ["", "projection"]),
    "in place": (InPlace, ["conv"]),
    "standardised": (Standardised, ["conv", "head"]),
    "reflected": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Flatten()), ["0"]),
    "same": (lambda: nn.Sequential(nn.Conv2d(3, 4, (2, 3), padding="same", dilation=2), nn.Flatten()), ["0"]),
    "weight norm": (parametrized(parametrizations.weight_norm), ["0"]),
    "spectral norm": (parametrized(parametrizations.spectral_norm), ["0"]),
    "orthogonal": (parametrized(parametrizations.orthogonal), ["0"]),
    "old spectral norm": (parametrized(nn.utils.spectral_norm), ["0"]),
    "conv3d": (lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, 3), nn.Flatten()), ["1"]),
    "transposed": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2)), ["0", "1"]),
    "dropout": (lambda: nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(192, 3)), ["2"]),
    "conv1d": (lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(248, 2)), ["1", "3"]),
}


def made(name):
    torch.manual_seed(0)
    return FORWARDS[name][0]()


@pytest.mark.parametrize("name", FORWARDS)
@torch.no_grad()
def test_logits_are_the_same_for_any_number_of_images(name):
    net = made(name).train()
    before = copy.deepcopy(net)
    model = capture(net, IMAGE)
    assert same_state(net, before)
    assert all(module.training for module in net.modules())
    net.eval()
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 8, 8)
        assert torch.equal(model(images), net(images))
        assert torch.equal(copy.deepcopy(model)(images), net(images))
    if name == "in place":  # its view asks for one order in memory
        return
    images = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(channels_last(model)(images), net(images))


@pytest.mark.parametrize("name", [name for name in FORWARDS if name != "functional"])
def test_layers_are_named_by_what_holds_their_weight(name):
    assert list(find_layers(capture(made(name), IMAGE))) == FORWARDS[name][1]


def test_a_weight_of_the_model_itself_makes_a_layer():
    model = capture(Functional(), IMAGE)
    assert [weight.shape for weight in find_layers(model).values()] == [(4, 3, 3, 3), (5, 4)]
    assert list(find_layers(model))[1] == "projection"


@torch.no_grad()
def test_gradients_are_the_models():
    net, images = made("in place").eval(), torch.randn(2, 3, 8, 8)
    model = capture(net, IMAGE)
    with torch.enable_grad():
        net(images).square().sum().backward()
        model(images).square().sum().backward()
    torch.testing.assert_close(model.conv.weight.grad, net.conv.weight.grad)


@torch.no_grad()
def test_a_norm_folds_into_a_weight_that_is_computed():
    net, images = made("standardised").eval(), torch.randn(2, 3, 8, 8)
    model = capture(net, IMAGE)
    assert fold_batch_norms(model) == (["norm"], [])
    torch.testing.assert_close(model(images), net(images))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory = nn.LSTM(64, 5, batch_first=True, bias=False)

    def forward(self, x):
        return self.memory(x.flatten(2))[0]


def test_what_stays_float_says_how_many_parameters_it_has():
    assert left_float(capture(Recurrent(), IMAGE), []) == {"lstm at memory": 4 * 5 * (64 + 5)}


@torch.no_grad()
def test_the_projections_of_an_attention_are_layers():
    torch.manual_seed(0)
    net, images = Attention().eval(), torch.randn(2, 3, 8, 8)
    model = capture(net, IMAGE)
    torch.testing.assert_close(model(images), net(images))  # outside torch takes another, fused way
    assert set(find_layers(model)) >= {"embed", "attend.out_proj"}


class Dynamic(nn.Module):
    """A convolution whose weight follows from the image."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(3, 9)

    def forward(self, x):
        weight = self.mix(x.mean((0, 2, 3))).reshape(3, 3, 1, 1)
        return nn.functional.conv2d(x, weight).flatten(1)


def test_what_stays_float_is_named():
    assert left_float(capture(nn.Sequential(Dynamic()), IMAGE), ["0.mix"]) == {"conv2d at 0": 0}


class Table(nn.Module):
    """A table that the code makes goes through a layer; random numbers come with what it gives."""

    def __init__(self):
        super().__init__()
        self.conv, self.place = nn.Conv2d(3, 4, 3), nn.Linear(1, 4)

    def forward(self, x):
        table = torch.arange(36.0).reshape(36, 1).expand(x.shape[0], -1, -1)
        return self.conv(x).flatten(2) + self.place(table).transpose(1, 2), torch.rand(3)


@torch.no_grad()
def test_a_table_is_computed_once_and_random_numbers_at_every_call():
    net, images = Table().eval(), torch.randn(2, 3, 8, 8)
    expected, _ = net(images)
    model = capture(net, IMAGE).double()
    found, one = model(images.double())
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-5)
    assert not torch.equal(one, model(images.double())[1])


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(len(x), -1)


class Forms(nn.Module):
    """Gives a dictionary with a tuple in it, a number, None, a mask and a constant."""

    def __init__(self):
        super().__init__()
        self.conv, self.spare = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, scale=2.0):
        self.calls += 1
        y = self.conv(x) * scale
        classes = y.argmax(1)
        return {"out": y, "pair": (y.mean((2, 3)), classes), "scale": scale, "aux": None, "table": torch.ones(2)}


def test_what_comes_out_has_the_form_that_it_had():
    net, images = Forms().eval(), torch.randn(4, 3, 8, 8)
    model = capture(net, IMAGE)
    for each in (model, copy.deepcopy(model)):
        found, expected = each(images), net(images)
        assert list(found) == list(expected)
        assert found["scale"] == 2.0
        assert found["aux"] is None
        for one, other in zip(found["pair"], expected["pair"], strict=True):
            assert torch.equal(one, other)
    assert joined(model(images)).shape == (4, 4 * 6 * 6 + 4)  # neither a class nor a table is compared
    alone, names = model.returning_tensors()
    assert joined(alone(images)).shape == (4, 4 * 6 * 6 + 4)
    assert names == ["out", "pair.0", "pair.1", "table"]  # the classes are a tensor too
    assert len(alone(images)) == 4
    assert [unit.layers for unit in cut(graph_of(model), model, "block", IMAGE)] == [("conv",)]


class Tables(nn.Module):
    """Gives what has no row for each image first, and rows of an image second."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("anchors", torch.ones(7, 2))

    def forward(self, x):
        y = self.conv(x)
        return {"anchors": self.anchors, "by_row": y.mean(3).permute(2, 0, 1), "logits": y.mean((2, 3))}


def test_what_has_a_row_for_each_image_counts_wherever_it_stands():
    images = torch.randn(5, 3, 8, 8)
    model = capture(Tables().eval(), IMAGE)
    assert joined(model(images), 5).shape == (5, 4)
    graph = graph_of(model)
    assert torch.equal(executor(model, graph).run(images), model(images)["logits"])


class WithNorm(nn.Conv2d):
    """A convolution that holds its own norm, as some detectors have."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.norm = nn.BatchNorm2d(self.out_channels)

    def forward(self, x):
        return torch.relu(self.norm(super().forward(x)))


def test_a_norm_below_a_layer_comes_beside_it():
    net = nn.Sequential(WithNorm(3, 4, 3), WithNorm(4, 5, 3)).eval()
    model = capture(net, IMAGE)
    fold_batch_norms(model)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in model.modules())
    assert not list(model.get_submodule("0").children())
    torch.testing.assert_close(model(IMAGE), net(IMAGE))


def test_a_batch_norm_with_a_shift_and_no_gain():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.shift = nn.Conv2d(3, 4, 3), nn.Parameter(torch.randn(4))
            self.register_buffer("mean", torch.rand(4))
            self.register_buffer("variance", 1 + torch.rand(4))

        def forward(self, x):
            return functional.batch_norm(self.conv(x), self.mean, self.variance, None, self.shift)

    net = Shifted().eval()
    torch.testing.assert_close(capture(net, IMAGE)(IMAGE), net(IMAGE))


def test_what_is_not_captured_is_said():
    assert capture(Forms(), IMAGE).remarks == [
        "never called, left alone: spare",
        "the forward changes calls; in the captured model they stay as they are",
    ]


@pytest.mark.parametrize(
    ("given", "found"), [("out", (4, 4, 6, 6)), ("pair.0", (4, 4)), (lambda outputs: outputs["pair"][0] + 1, (4, 4))]
)
def test_logits_are_found_by_their_key_or_a_function(given, found):
    model = capture(Forms(), IMAGE)
    model.logits_at = given
    assert class_logits(model, torch.randn(4, 3, 8, 8)).shape == found


@pytest.mark.parametrize("given", [None, "logits", 3])
def test_logits_that_are_not_named_are_told(given):
    model = capture(Forms(), IMAGE)
    model.logits_at = given
    with pytest.raises(InputError, match=rf"^output={given}: the model gives out, pair\.0, table; name the one"):
        class_logits(model, torch.randn(4, 3, 8, 8))


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Fixed(), r"as len\(x\) does: write x\.shape\[0\]"),
        (Branches(), "depends on values"),
    ],
)
def test_a_forward_that_cannot_be_followed_says_why_in_a_line(model, why):
    with pytest.raises(InputError, match=rf"{type(model).__name__} cannot be handled: .*{why}") as caught:
        capture(model, IMAGE)
    assert "\n" not in str(caught.value)


def test_what_users_read_is_kept():
    net = made("reflected")
    net.num_classes, net.pretrained_cfg = 256, {"input_size": (3, 8, 8)}
    model = capture(net, IMAGE)
    assert (model.num_classes, model.pretrained_cfg) == (256, {"input_size": (3, 8, 8)})
    assert copy.deepcopy(model).num_classes == 256


def test_an_output_that_no_image_changes_is_refused():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.ones(1, 2))

        def forward(self, x):
            return self.value * 2

    with pytest.raises(InputError, match="does not depend on the image"):
        capture(Constant(), IMAGE)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_a_script_is_refused():
    with pytest.raises(InputError, match="takes no ScriptModule"):
        capture(torch.jit.script(nn.Flatten()), IMAGE)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@torch.no_grad()
def test_the_old_weight_norm():
    """Its weight is no parameter, and has a history that torch refuses to copy."""
    with torch.enable_grad():
        net = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3))).eval()
    model, images = capture(net, IMAGE), torch.randn(2, 3, 8, 8)
    assert torch.equal(model(images), net(images))
    assert list(find_layers(model)) == ["0"]


def test_a_model_of_double_precision_is_captured_in_the_images():
    net = nn.Sequential(nn.Conv2d(3, 4, 3)).double()
    assert capture(net, IMAGE)(IMAGE).dtype == torch.float32
    assert capture(net, IMAGE.double())(IMAGE.double()).dtype == torch.float64
    assert net[0].weight.dtype == torch.float64


def test_a_captured_model_goes_to_another_process(network):
    x = torch.randn(4, 3, 16, 16)
    again = pickle.loads(pickle.dumps(network))
    assert torch.equal(again(x), network(x))
    assert [node.name for node in again.graph.nodes] == [node.name for node in network.graph.nodes]
