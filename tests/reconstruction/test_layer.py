"""A layer from its inputs to its integers, by every rounding method, on grids with and without a zero point."""

import copy

import pytest
import torch
from torch import nn

from attnround.calibration.moments import gather_moments
from attnround.errors import InputError
from attnround.graph.kinds import grouped_rows
from attnround.graph.patches import Patches
from attnround.quantization.grid import Grid, dequantize, quantize
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import ClipSearch, sqnr_db
from attnround.quantization.rounding import (
    GPTQ,
    AdaRound,
    AttentionRound,
    CoordinateDescent,
    FlexRound,
    Nearest,
)
from attnround.reconstruction.layer import LayerReconstruction, LayerUnit, check_memory
from attnround.reconstruction.objective import LayerObjective, best_target
from attnround.reconstruction.ridge import choose_ridges

METHODS = {
    "nearest": Nearest(calibrated=True),
    "adaround": AdaRound(num_steps=200, lr=0.05),
    "attention_round": AttentionRound(num_steps=100),
    "attention_round_polished": AttentionRound(num_steps=50, polish=True),
    "flexround": FlexRound(num_steps=200, lr=0.005),
    "gptq": GPTQ(),
    "coordinate_descent": CoordinateDescent(),
}
INFORMED = [name for name in METHODS if name != "nearest"]
LAYERS = {
    "grouped": nn.Conv2d(8, 12, 3, padding=1, groups=2),
    "depthwise": nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "linear": nn.Linear(8, 12),
}


def inputs(layer, num_images=64):
    """Correlated channels, one of them dead, with a drift between the float and the quantized model's."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_images * 8, 8) if isinstance(layer, nn.Linear) else (num_images, 8, 6, 6)
    x = torch.randn(shape, generator=generator)
    for axis in range(1, x.ndim):  # smooth, as images are
        x = x + x.roll(1, axis) + x.roll(2, axis)
    x = x.relu()
    x[:, 3] = 0
    return x, x + 0.05 * torch.randn(shape, generator=generator) * (x > 0)


def reconstruct(layer, method, symmetric=True, refit_scale=False):
    observer = ClipSearch(symmetric=symmetric)
    grid = observer.grid(3)
    scale, zero_point = observer.search(layer.weight, grid)
    student = QuantizedLayer(copy.deepcopy(layer), grid, scale, zero_point)
    moments = gather_moments(layer, [inputs(layer)], Patches(layer, 100, torch.Generator()))
    settings = LayerReconstruction(observer=observer, num_positions=100, refit_scale=refit_scale)
    unit = LayerUnit("it", layer, student, moments, moments, method, settings, torch.Generator().manual_seed(0))
    unit.run(range(method.num_steps))
    return student, unit.finish()


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    layer = copy.deepcopy(LAYERS[request.param])
    layer.reset_parameters()
    with torch.no_grad():
        layer.weight[1] = 0
    return layer


@torch.no_grad()
def output_sqnr_db(layer, student):
    """As the report has it, but by running the layer."""
    x, x_quantized = inputs(layer)
    wanted, given = layer(x), student(x_quantized)
    centred = wanted - wanted.mean([0, *range(2, wanted.ndim)], keepdim=True)
    return sqnr_db(centred, centred + given - wanted)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero point"])
@pytest.mark.parametrize("name", INFORMED)
def test_the_report_is_what_the_layer_does_and_better_than_nearest(name, layer, symmetric):
    student, report = reconstruct(layer, METHODS[name], symmetric)
    assert torch.equal(student.layer.weight, dequantize(student.levels, student.scale, student.zero_point))
    assert report.sqnr_db == pytest.approx(output_sqnr_db(layer, student), abs=0.1)
    assert report.sqnr_db > report.start_sqnr_db or (name == "flexround" and not report.kept)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_scale_has_room_for_what_makes_up_for_the_drift(layer, weighted):
    """Inputs at 0.4 of their size ask for a weight 2.5 times the float one, of which the same grid holds as much."""
    x, _ = inputs(layer)
    observer = ClipSearch(input_weighted=weighted)
    reports = []
    for factor in (1.0, 0.4):
        scale, zero_point = observer.search(layer.weight, observer.grid(3))
        student = QuantizedLayer(copy.deepcopy(layer), observer.grid(3), scale, zero_point)
        moments = gather_moments(layer, [(x, factor * x)], Patches(layer, 100, torch.Generator()))
        settings = LayerReconstruction(observer=observer, num_positions=100, ridge=1e-4)
        generator = torch.Generator().manual_seed(0)
        unit = LayerUnit("it", layer, student, moments, moments, GPTQ(), settings, generator)
        unit.run(range(GPTQ().num_steps))
        reports.append(unit.finish())
    assert reports[1].sqnr_db > reports[0].sqnr_db - 0.5


@pytest.mark.parametrize(
    ("options", "of_target", "of_rounding"),
    [
        ({"ridge": 0.5}, 0.5, 0.5),
        ({"rounding_ridge": False}, "target", "target"),
        ({}, "target", "rounding"),
    ],
)
def test_the_target_and_its_rounding_have_the_ridges_that_are_asked_for(options, of_target, of_rounding, layer):
    x, x_quantized = inputs(layer)
    parts = [
        gather_moments(layer, [each], Patches(layer, 100, torch.Generator()))
        for each in ((x[:48], x_quantized[:48]), (x[48:], x_quantized[48:]))
    ]
    target, rounding = choose_ridges(*parts)
    assert target != rounding
    chosen = {"target": target, "rounding": rounding}
    observer = ClipSearch()
    student = QuantizedLayer(copy.deepcopy(layer), observer.grid(3), *observer.search(layer.weight, observer.grid(3)))
    settings = LayerReconstruction(observer=observer, num_positions=100, **options)
    unit = LayerUnit("it", layer, student, *parts, GPTQ(), settings, torch.Generator())
    ridges = [chosen.get(each, each) for each in (of_target, of_rounding)]
    wanted = best_target(grouped_rows(layer, layer.weight), parts[0], *ridges)
    torch.testing.assert_close(unit.target, wanted.rows.float().reshape(unit.target.shape))
    torch.testing.assert_close(unit.objective.second, wanted.second.float())


@pytest.mark.parametrize("name", METHODS)
def test_a_refitted_scale_is_the_best_one_for_its_levels(name, layer):
    student, report = reconstruct(layer, METHODS[name], refit_scale=True)
    assert report.sqnr_db == pytest.approx(output_sqnr_db(layer, student), abs=0.1)
    as_it_was, before = reconstruct(layer, METHODS[name])
    assert torch.equal(student.levels, as_it_was.levels) or not before.kept
    assert report.sqnr_db > before.sqnr_db - 0.05  # the ridge too has a say in the scale
    assert (student.scale > 0).all()
    assert torch.equal(student.layer.weight[1], torch.zeros_like(student.layer.weight[1]))


def test_the_best_factor_is_the_lowest_point(layer):
    moments = gather_moments(layer, [inputs(layer)], Patches(layer, 100, torch.Generator()))
    weight, grid = layer.weight.detach(), Grid(3, symmetric=False)
    scale, zero_point = torch.rand(len(weight)) * 0.05 + 0.1, torch.full((len(weight),), 4.0)
    objective = LayerObjective(
        best_target(grouped_rows(layer, weight), moments, 0.01, 0.01), moments, scale, zero_point
    )
    levels = quantize(weight, scale, zero_point, grid)
    factor = objective.best_factor(levels).reshape(-1, *[1] * (layer.weight.ndim - 1))
    best, *others = (objective(factor * other * (levels - 4) + 4) for other in (1.0, 0.99, 1.01))
    assert best < min(others)
    assert objective.best_factor(torch.full_like(levels, 4.0)).tolist() == [1.0] * len(levels)


def test_moments_beyond_the_memory_are_refused_before_they_are_gathered():
    with torch.device("meta"):
        layer = nn.Linear(500_000, 2)
    with pytest.raises(InputError, match=r"^fc1: .* 500000 inputs need .* GiB .*: give reconstruction=block$"):
        check_memory("fc1", layer.weight, AdaRound())
    check_memory("fc1", nn.Linear(10, 2).weight, AdaRound())
