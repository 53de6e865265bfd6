import copy

import pytest
import torch
from tests.conftest import same_state

from attnround.graph import find_layers, swap_layers
from attnround.quantization.grid import quantize
from attnround.quantization.observer import ClipSearch
from attnround.quantization.rounding import Nearest, Stochastic
from attnround.reconstruction import LayerReconstruction, reconstruct

NO_IMAGES = None  # they are not looked at


@pytest.fixture
def start(network):
    return network, swap_layers(network, dict.fromkeys(find_layers(network), 3), ClipSearch())


def rounded(start, quantizer, seed=0):
    teacher, student = start
    student = copy.deepcopy(student)
    settings = LayerReconstruction(observer=ClipSearch(input_weighted=True))
    return student, reconstruct(teacher, student, NO_IMAGES, quantizer, settings, seed=seed)


def test_nearest_leaves_what_the_layers_were_swapped_for(start):
    student, reports = rounded(start, Nearest())
    assert same_state(student, start[1])
    assert [report.name for report in reports] == ["stem", "depthwise", "grouped", "head"]
    assert all(report.start_sqnr_db == report.sqnr_db == report.layers[0].weight_sqnr_db for report in reports)
    assert all(report.layers[0].moved_one == report.layers[0].moved_more == 0 for report in reports)


def test_stochastic_rounding_keeps_scales_and_biases_and_depends_on_the_seed(start):
    students = [rounded(start, Stochastic(), seed)[0] for seed in (0, 0, 1)]
    assert same_state(*students[:2])
    assert not same_state(*students[1:])
    for name, weight in find_layers(start[0]).items():
        one, other = (each.get_submodule(name) for each in (students[0], start[1]))
        assert torch.equal(one.scale, other.scale)
        assert torch.equal(one.layer.bias, other.layer.bias)
        nearest = quantize(weight, one.scale, one.zero_point, one.grid)
        assert 0 < (one.levels - nearest).abs().max() <= 1


def test_nearest_on_calibrated_scales_needs_images(start):
    assert Nearest().data_free
    assert not Nearest(calibrated=True).data_free
