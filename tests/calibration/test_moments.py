"""Moments and the layer objective against all patches in float64, by torch's own unfold and convolution."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.functional import unfold

from attnround.calibration.moments import CentredMeans, Moments, MomentSums, gather_moments, mirrored
from attnround.graph.kinds import grouped_rows
from attnround.graph.patches import Patches
from attnround.quantization.grid import Grid, dequantize, quantize
from attnround.quantization.observer import ClipSearch
from attnround.reconstruction.objective import LayerObjective, best_target, corrected_bias, output_error
from attnround.reconstruction.report import decibel

LAYERS = {
    "padded": nn.Conv2d(4, 6, 3, padding=1),
    "strided": nn.Conv2d(4, 6, 3, stride=2),
    "grouped": nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "depthwise": nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "linear": nn.Linear(4, 6),
    "widening": nn.Conv2d(4, 80, 3, padding=1),
}


def all_columns(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """[G, N*L, n] in float64, with torch's unfold."""
    x = x.double()
    if isinstance(layer, nn.Linear):
        return x[None]
    columns = unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    rows = columns.permute(0, 2, 1).flatten(0, 1)
    return rows.reshape(len(rows), layer.groups, -1).permute(1, 0, 2)


@dataclass(frozen=True)
class Case:
    """A layer, its inputs in both models, the drift of what is added to its output, and the moments of all that.

    factor: of the outputs' metric [G, o, o].
    """

    layer: nn.Module
    x: torch.Tensor
    x_quantized: torch.Tensor
    residual: torch.Tensor
    factor: torch.Tensor
    moments: Moments

    def gathered(self) -> Moments:
        sums = MomentSums(self.layer, Patches(self.layer, 10_000, torch.Generator()), self.moments.factor)
        sums.add(self.x, self.x_quantized, self.residual)
        return sums.moments()

    def added(self) -> torch.Tensor:
        """The residual at all places, [G, N*L, o] in float64."""
        rows = self.residual if self.residual.ndim == 2 else self.residual.flatten(2).mT.flatten(0, 1)
        return rows.double().unflatten(1, (len(self.factor), -1)).transpose(0, 1)


@pytest.fixture(params=[f"{layer}{more}" for layer in LAYERS for more in ("", ", in a metric, with a residual")])
def case(request):
    torch.manual_seed(0)
    name, *more = request.param.split(", ")
    layer = LAYERS[name]
    shape = (40, 4) if name == "linear" else (10, 4, 7, 8)
    x = torch.randn(shape) + 0.5
    x_quantized = x + 0.1 * torch.randn(shape)
    residual = 0.1 * torch.randn_like(layer(x)) + 0.2
    groups = getattr(layer, "groups", 1)
    outputs = len(layer.weight) // groups
    factor = torch.eye(outputs, dtype=torch.float64).expand(groups, -1, -1)
    if more:
        factor = (factor + torch.rand(groups, outputs, outputs)).triu()
    else:
        residual = torch.zeros_like(residual)
    sums = MomentSums(layer, Patches(layer, 10_000, torch.Generator()), factor if more else None)
    for part in zip(x.split(4), x_quantized.split(4), residual.split(4), strict=True):
        sums.add(*part) if more else sums.add(*part[:2])
    return Case(layer, x, x_quantized, residual, factor, sums.moments())


def test_moments_are_those_of_all_patches(case):
    layer, moments = case.layer, case.moments
    columns, columns_quantized = all_columns(layer, case.x), all_columns(layer, case.x_quantized)
    assert moments.num_samples == columns.shape[1]
    for mean, values in ((moments.mean, columns), (moments.mean_quantized, columns_quantized)):
        torch.testing.assert_close(mean, values.mean(1), rtol=0, atol=1e-5)
    centred = columns - columns.mean(1, keepdim=True)
    centred_quantized = columns_quantized - columns_quantized.mean(1, keepdim=True)
    count = columns.shape[1]
    torch.testing.assert_close(moments.second, centred_quantized.mT @ centred_quantized / count, rtol=0, atol=1e-4)
    rows = grouped_rows(layer, layer.weight.detach()).double()
    torch.testing.assert_close(moments.mean_residual, case.added().mean(1), rtol=0, atol=1e-5)
    wrong = (centred_quantized - centred) @ rows.mT + case.added() - case.added().mean(1, keepdim=True)
    wrong, outputs = wrong @ case.factor.mT, centred @ rows.mT @ case.factor.mT
    torch.testing.assert_close(moments.pull, wrong.mT @ centred_quantized / count, rtol=0, atol=2e-4)
    for energy, values in ((moments.signal, outputs), (moments.carried, wrong)):
        assert energy == pytest.approx(values.square().sum(2).mean(1).sum().item(), rel=1e-4)


@pytest.mark.parametrize("num_inputs", [3, 512, 1300])
def test_products_are_mirrored_from_their_half(num_inputs, generator):
    columns = torch.randn(2, 40, num_inputs, generator=generator)
    sums = CentredMeans(torch.float64)
    for batch in columns.split(25, dim=1):
        sums.add_products("second", batch)
    found = mirrored(sums.sums["second"])
    assert torch.equal(found, found.mT)
    torch.testing.assert_close(found, columns.double().mT @ columns.double(), rtol=0, atol=1e-4)


def test_a_batch_is_summed_in_parts_to_the_same_moments(case, monkeypatch):
    monkeypatch.setattr("attnround.calibration.moments.NUM_VALUES", 1)
    parts, whole = case.gathered(), case.moments
    assert parts.num_samples == whole.num_samples
    for name in ("mean", "mean_quantized", "mean_residual", "second", "pull"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bit_width", [3, 8])
def test_the_objective_is_the_output_error_of_the_layer_with_its_bias_corrected(case, bit_width):
    layer, moments = case.layer, case.moments
    grid = Grid(bit_width)
    weight = layer.weight.detach()
    scale, zero_point = ClipSearch().search(weight, grid)
    levels = quantize(weight, scale, zero_point, grid)
    quantized = dequantize(levels, scale, zero_point)
    rows, quantized_rows = grouped_rows(layer, weight), grouped_rows(layer, quantized)
    bias = corrected_bias(layer.bias.detach(), rows, quantized_rows, moments)

    wanted = all_columns(layer, case.x) @ rows.double().mT + layer.bias.detach().double().reshape(rows.shape[0], 1, -1)
    given = all_columns(layer, case.x_quantized) @ quantized_rows.double().mT + case.added()
    given += bias.double().reshape(rows.shape[0], 1, -1)
    torch.testing.assert_close(given.mean(1), wanted.mean(1), rtol=0, atol=1e-5)
    energy = ((wanted - wanted.mean(1, keepdim=True)) @ case.factor.mT).square().sum(2).mean(1).sum()
    error = 100 * ((given - wanted) @ case.factor.mT).square().sum(2).mean(1).sum() / energy

    objective = LayerObjective(best_target(rows, moments, 1e-9, 1e-9), moments, scale, zero_point)
    assert objective(levels).item() + objective.floor == pytest.approx(error.item(), rel=1e-3)
    expected_db = -10 * torch.log10(error / 100).item()
    reported_db = decibel(output_error(rows, quantized_rows, moments))
    assert reported_db == pytest.approx(expected_db, abs=0.01)  # the ridge steers, it is not reported


def test_the_variance_term_is_the_mean_error_of_random_levels(case, generator):
    layer, moments = case.layer, case.moments
    grid = Grid(4)
    weight = layer.weight.detach()
    scale, zero_point = ClipSearch().search(weight, grid)
    objective = LayerObjective(
        best_target(grouped_rows(layer, weight), moments, 0.01, 0.01), moments, scale, zero_point
    )
    mean = quantize(weight, scale, zero_point, grid)
    draws = [mean + torch.randint(0, 2, mean.shape, generator=generator) * 2 - 1 for _ in range(3000)]
    drawn = torch.stack([objective(each) for each in draws]).mean()
    assert drawn.item() == pytest.approx(objective(mean, torch.ones_like(mean)).item(), rel=0.03)


def test_the_gradient_is_that_of_finite_differences(case):
    layer, moments = case.layer, case.moments
    weight = layer.weight.detach().double()
    scale, zero_point = torch.full_like(weight.flatten(1)[:, 0], 0.1), torch.zeros(len(weight))
    objective = LayerObjective(
        best_target(grouped_rows(layer, weight), moments, 0.01, 0.01), moments, scale, zero_point
    )
    mean = (weight / 0.1).round().requires_grad_()
    variance = torch.rand_like(mean).requires_grad_()
    assert torch.autograd.gradcheck(objective, (mean, variance), rtol=1e-3)


def test_a_dead_layer_is_no_division_by_zero():
    layer = nn.Conv2d(2, 3, 3)
    x = torch.zeros(4, 2, 5, 5)
    moments = gather_moments(layer, [(x, x)], Patches(layer, 100, torch.Generator()))
    weight = layer.weight.detach()
    scale, zero_point = ClipSearch().search(weight, Grid(4))
    objective = LayerObjective(
        best_target(grouped_rows(layer, weight), moments, 0.01, 0.01), moments, scale, zero_point
    )
    assert torch.isfinite(objective(quantize(weight, scale, zero_point, Grid(4))))


def test_the_small_error_of_eight_bits_is_told_exactly_where_the_inputs_are_the_same():
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 16, 3, padding=1)
    x = torch.randn(64, 1, 28, 28).clamp(min=-0.8)
    moments = gather_moments(layer, [(each, each) for each in x.split(16)], Patches(layer, 10_000, torch.Generator()))
    weight, grid = layer.weight.detach(), Grid(8)
    scale, zero_point = ClipSearch().search(weight, grid)
    levels = quantize(weight, scale, zero_point, grid)
    rows = grouped_rows(layer, weight)
    quantized = dequantize(levels, scale, zero_point)
    difference = layer.weight.detach() - quantized
    noise = nn.functional.conv2d(x.double(), difference.double(), padding=1)
    signal = nn.functional.conv2d(x.double(), weight.double(), padding=1)
    energies = [(each - each.mean((0, 2, 3), keepdim=True)).square().sum() for each in (signal, noise)]
    expected_db = 10 * torch.log10(energies[0] / energies[1]).item()
    assert 40 < expected_db < 60
    reported_db = decibel(output_error(rows, grouped_rows(layer, quantized), moments))
    assert reported_db == pytest.approx(expected_db, abs=0.05)


def test_constant_inputs_have_no_variance():
    """Products of large equal values, summed in float32, must not leave an H that is below zero."""
    layer = nn.Conv2d(16, 4, 1)
    x = torch.randn(16, 1, 1).expand(64, 16, 12, 12) * 100
    patches = Patches(layer, 144, torch.Generator().manual_seed(0))
    moments = gather_moments(layer, [(x, x + 1)] * 2, patches)
    assert torch.linalg.eigvalsh(moments.second).abs().max() < 1e-6
    torch.testing.assert_close(moments.mean_quantized[0], x[0, :, 0, 0].double() + 1, rtol=1e-6, atol=1e-4)


def test_moments_of_several_calls_are_those_of_all_their_patches():
    torch.manual_seed(0)
    layer, calls = nn.Conv2d(3, 4, 3, padding=1), [torch.randn(5, 3, 6, 6), 2 + torch.randn(5, 3, 4, 5)]
    sums = MomentSums(layer, Patches(layer, 10_000, torch.Generator()))
    for x in calls:
        sums.add(x, x)
    columns = torch.cat([all_columns(layer, x) for x in calls], 1)
    moments, centred = sums.moments(), columns - columns.mean(1, keepdim=True)
    torch.testing.assert_close(moments.second, centred.mT @ centred / columns.shape[1], rtol=0, atol=1e-4)
    assert moments.num_samples == columns.shape[1]
