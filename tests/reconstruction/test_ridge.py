"""The ridge of a layer, chosen on held-out images."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from attnround.calibration.moments import Moments, gather_moments
from attnround.graph.kinds import grouped_rows
from attnround.graph.patches import Patches
from attnround.reconstruction.objective import output_error, with_ridge
from attnround.reconstruction.ridge import RIDGES, USUAL, choose_ridge

LAYERS = {
    "linear": lambda: nn.Linear(24, 10),
    "convolution": lambda: nn.Conv2d(6, 8, 3, padding=1),
    "groups": lambda: nn.Conv2d(8, 8, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, groups=8),
}


def moments_of(layer: nn.Module, num_images: int, seed: int, drift: float = 0.3) -> Moments:
    """Inputs that are mixed of a few sources, and that drift by a fixed linear map of them and by noise."""
    torch.manual_seed(0)
    channels = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    mixing, moving = torch.randn(channels, channels) / 3, torch.randn(channels, channels) / channels**0.5
    generator = torch.Generator().manual_seed(seed)
    size = () if isinstance(layer, nn.Linear) else (5, 5)
    sources = torch.randn(num_images, *size, channels, generator=generator)
    x = sources @ mixing
    x_quantized = x + drift * (0.3 * x @ moving + torch.randn(x.shape, generator=generator))
    x, x_quantized = (each if each.ndim == 2 else each.permute(0, 3, 1, 2) for each in (x, x_quantized))
    return gather_moments(layer, [(x, x_quantized)], Patches(layer, 100, torch.Generator()))


def best_weights(rows: Tensor, moments: Moments, ridge: float) -> Tensor:
    return rows - moments.pull @ torch.linalg.inv(with_ridge(moments, ridge))


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_no_ridge_beside_it_has_a_smaller_error_on_the_held_out_images(make):
    layer = make()
    rows = grouped_rows(layer, layer.weight.detach())
    learned, held_out = moments_of(layer, 30, 1), moments_of(layer, 40, 2)
    chosen = choose_ridge(learned, held_out)
    errors = {each: output_error(rows, best_weights(rows.double(), learned, each), held_out) for each in RIDGES}
    place = RIDGES.index(chosen)
    assert all(errors[chosen] <= errors[each] for each in RIDGES[: place + 2])


def test_few_images_pull_harder():
    layer = nn.Linear(24, 10)
    held_out = moments_of(layer, 2000, 2)
    few, some, many = (choose_ridge(moments_of(layer, number, 1), held_out) for number in (26, 200, 20_000))
    assert few > some > many


def test_what_does_not_drift_has_the_usual_ridge():
    layer = nn.Conv2d(6, 8, 3, padding=1)
    moments = moments_of(layer, 30, 1, drift=0)
    assert choose_ridge(moments, moments_of(layer, 30, 2, drift=0)) == USUAL


def test_drift_that_cannot_be_told_from_the_inputs_is_left_alone():
    """The images learned from show a drift that others do not have: the largest ridge makes up for the least of it."""
    layer = nn.Linear(24, 10)
    learned, held_out = moments_of(layer, 200, 1), moments_of(layer, 200, 2)
    opposite = dataclasses.replace(held_out, pull=-learned.pull)
    assert choose_ridge(learned, opposite) == RIDGES[-1]


def test_a_dead_layer_has_a_ridge():
    layer = nn.Linear(4, 3)
    x = torch.zeros(8, 4)
    moments = gather_moments(layer, [(x, x)], Patches(layer, 100, torch.Generator()))
    assert choose_ridge(moments, moments) == USUAL
