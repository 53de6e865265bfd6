import copy

import pytest
import timm
import torch
from tests.graph.conftest import small
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnround.graph import capture, fold_batch_norms, norms_to_fold


def awaken_norms(model: nn.Module) -> nn.Module:
    """Batch norms as after training: fresh ones are the identity, and folding them would prove little."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            with torch.no_grad():
                module.running_mean.normal_(generator=generator).mul_(0.1)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(generator=generator).mul_(0.1)
    return model.eval()


@pytest.mark.parametrize("name", ["resnet18", "test_resnet", "test_efficientnet", "test_vit", "Levit"])
@torch.no_grad()
def test_folding_changes_no_output(name):
    model = awaken_norms(small(name)).double()  # in float64 only an error of the formula would show
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    expected = model(x)
    model = capture(model, x[:1])
    folded, left = fold_batch_norms(model)
    assert left == (["head.bn"] if name == "Levit" else [])  # before a layer, not behind one
    assert bool(folded) == (name != "test_vit")
    assert sum(isinstance(module, _BatchNorm) for module in model.modules()) == len(left)
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_float32_outputs_are_equal_to_rounding(network):
    x = torch.randn(4, 3, 16, 16)
    expected = network(x)
    fold_batch_norms(network)
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_norm_that_is_not_all_a_layer_feeds_stays(network):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(x)
            return x + self.norm(x)

    x = torch.randn(2, 3, 5, 5)
    model = capture(Shared(), x[:1])
    expected = copy.deepcopy(model)(x)
    assert fold_batch_norms(model) == ([], ["norm"])
    assert torch.equal(model(x), expected)


class Twice(nn.Module):
    """One norm behind two layers."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.two(self.norm(self.one(x))))


@torch.no_grad()
def test_a_norm_that_runs_twice_folds_into_both_layers():
    x = torch.randn(2, 3, 5, 5)
    model = capture(awaken_norms(Twice()), x[:1])
    expected = model(x)
    assert fold_batch_norms(model) == (["norm", "norm_"], [])
    torch.testing.assert_close(model(x), expected)


@torch.no_grad()
def test_a_norm_folds_into_a_standardised_weight():
    x = torch.randn(2, 3, 5, 5)
    model = capture(awaken_norms(nn.Sequential(timm.layers.StdConv2d(3, 4, 1), nn.BatchNorm2d(4))), x[:1])
    expected = model(x)
    assert fold_batch_norms(model) == (["1"], [])
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("value", [0.0, 1e-30])
@torch.no_grad()
def test_a_channel_that_never_varied_folds_finitely(value):
    net = awaken_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    net[1].running_var[2] = value
    x = torch.randn(2, 3, 5, 5)
    model = capture(net, x[:1])
    expected = model(x)
    assert fold_batch_norms(model) == (["1"], [])
    assert model.get_submodule("0").weight.isfinite().all()
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-3)


class Tokens(nn.Module):
    """A linear layer over tokens and a batch norm, which sees rows [N*T, C], or [N, T, C] and then is over T."""

    def __init__(self, rows: bool):
        super().__init__()
        self.linear, self.norm, self.rows = nn.Linear(9, 4), nn.BatchNorm1d(4), rows

    def forward(self, x):
        y = self.linear(x.flatten(2)[:, :4])
        return self.norm(y.flatten(0, 1)).reshape_as(y) if self.rows else self.norm(y)


@pytest.mark.parametrize("rows", [True, False])
@torch.no_grad()
def test_a_norm_folds_into_a_linear_layer_only_over_its_channels(rows):
    net = awaken_norms(Tokens(rows)).double()
    x = torch.randn(5, 4, 3, 3, dtype=torch.double)
    expected = net(x)
    model = capture(net, x[:1])
    assert list(norms_to_fold(model)) == (["linear"] if rows else [])
    assert fold_batch_norms(model) == ((["norm"], []) if rows else ([], ["norm"]))
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


LAYERS = {
    "conv1d": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6)),
    "conv3d": lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv3d(1, 6, 2), nn.BatchNorm3d(6)),
    "transposed": lambda: nn.Sequential(nn.Identity(), nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.BatchNorm2d(6)),
}


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_norms_fold_into_every_kind_of_layer(name):
    net = awaken_norms(LAYERS[name]()).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.double)
    expected = net(x)
    model = capture(net, x[:1])
    assert fold_batch_norms(model) == (["2"], [])
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)
