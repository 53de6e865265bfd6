"""The ridges of a layer, chosen on held-out images."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from attnround.calibration.moments import Moments, gather_moments
from attnround.graph.kinds import grouped_rows
from attnround.graph.patches import Patches
from attnround.quantization.grid import Grid
from attnround.quantization.rounding.gptq import round_greedily
from attnround.reconstruction.objective import output_error, with_ridge
from attnround.reconstruction.ridge import RIDGES, USUAL, choose_ridges

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
    chosen, _ = choose_ridges(learned, held_out)
    errors = {each: output_error(rows, best_weights(rows.double(), learned, each), held_out) for each in RIDGES}
    place = RIDGES.index(chosen)
    assert all(errors[chosen] <= errors[each] for each in RIDGES[: place + 2])


def test_few_images_pull_harder():
    layer = nn.Linear(24, 10)
    held_out = moments_of(layer, 2000, 2)
    few, some, many = (choose_ridges(moments_of(layer, number, 1), held_out)[0] for number in (26, 200, 20_000))
    assert few > some > many


def test_what_does_not_drift_has_the_usual_ridge():
    layer = nn.Conv2d(6, 8, 3, padding=1)
    moments = moments_of(layer, 30, 1, drift=0)
    assert choose_ridges(moments, moments_of(layer, 30, 2, drift=0))[0] == USUAL


def test_drift_that_cannot_be_told_from_the_inputs_is_left_alone():
    """The images learned from show a drift that others do not have: the largest ridge makes up for the least of it."""
    layer = nn.Linear(24, 10)
    learned, held_out = moments_of(layer, 200, 1), moments_of(layer, 200, 2)
    opposite = dataclasses.replace(held_out, pull=-learned.pull)
    assert choose_ridges(learned, opposite)[0] == RIDGES[-1]


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_no_ridge_beside_it_rounds_to_a_smaller_error_on_the_held_out_images(make):
    layer = make()
    learned, held_out = moments_of(layer, 12, 1), moments_of(layer, 400, 2)
    _, chosen = choose_ridges(learned, held_out)
    errors = {each: rounded_error(learned, held_out, each) for each in RIDGES}
    place = RIDGES.index(chosen)
    least = min(errors[each] for each in RIDGES[: place + 2])
    assert errors[chosen] <= 1.02 * least  # of different remainders


def rounded_error(learned: Moments, held_out: Moments, ridge: float) -> float:
    """What GPTQ's errors of many rows of random weights, far from all ends of the grid, cost on other images."""
    second = with_ridge(learned, ridge).flip(1, 2)  # it rounds the first column first
    groups, n, _ = second.shape
    centre = 20 * torch.randn(groups, 4000, n, generator=torch.Generator().manual_seed(3)).double()
    error = (round_greedily(centre, second, Grid(8)) - centre).flip(2)
    return (error @ held_out.second * error).sum().item()


def test_few_images_round_by_less_of_what_they_say():
    layer, held_out = nn.Linear(24, 10), moments_of(nn.Linear(24, 10), 2000, 2)
    few, many = (choose_ridges(moments_of(layer, number, 1), held_out)[1] for number in (26, 20_000))
    assert few > many


def test_a_dead_layer_has_a_ridge():
    layer = nn.Linear(4, 3)
    x = torch.zeros(8, 4)
    moments = gather_moments(layer, [(x, x)], Patches(layer, 100, torch.Generator()))
    assert choose_ridges(moments, moments) == (USUAL, USUAL)
