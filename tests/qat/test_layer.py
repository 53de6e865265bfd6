import copy

import pytest
import torch

from attnround.qat.batch_norm import estimate_norms, gain, insert_norms, statistics
from attnround.qat.layer import TrainedLayer, settle_layers, train_layers
from attnround.quantization.grid import dequantize
from attnround.quantization.layers import QuantizedLayer, quantized_layers
from attnround.quantization.observer import ClipSearch


def layer_of(weight, symmetric=True, bits=3):
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight.data.copy_(weight)
    search = ClipSearch(symmetric=symmetric)
    grid = search.grid(bits)
    return QuantizedLayer(linear, grid, *search.search(weight, grid))


@pytest.mark.parametrize("symmetric", [True, False])
def test_it_starts_with_the_integers_of_any_rounding_and_ends_with_them_if_nothing_is_learned(generator, symmetric):
    weight = torch.randn(6, 40, generator=generator)
    quantized = layer_of(weight, symmetric)
    grid = quantized.grid
    moved = quantized.levels.float() + torch.randint(-2, 3, quantized.levels.shape, generator=generator)
    quantized.bake(moved.clamp(grid.qmin, grid.qmax))
    x = torch.randn(10, 40, generator=generator)
    before, levels = quantized(x), quantized.levels.clone()
    trained = TrainedLayer(copy.deepcopy(quantized), weight)
    torch.testing.assert_close(trained(x), before)
    assert torch.equal(trained.settle().levels, levels)


def test_a_weight_starts_where_the_float_one_was_unless_its_level_is_another(generator):
    weight = torch.randn(4, 30, generator=generator)
    quantized = layer_of(weight)
    assert torch.allclose(TrainedLayer(quantized, weight).weight, weight, atol=1e-6)


def test_a_step_stays_positive_whatever_the_optimizer_does(generator):
    weight = torch.randn(4, 30, generator=generator)
    trained = TrainedLayer(layer_of(weight), weight)
    with torch.no_grad():
        trained.scale.sub_(100)
    trained.keep_positive()
    assert (trained.scale > 0).all()


def test_what_is_settled_lies_on_the_grid_and_computes_the_same(problem, generator):
    student = copy.deepcopy(problem.student)
    train_layers(student, problem.teacher)
    for parameter in student.parameters():
        parameter.data.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=generator))
    with torch.no_grad():
        before = student(problem.images)
        settle_layers(student)
        torch.testing.assert_close(student(problem.images), before, rtol=1e-4, atol=1e-5)
    for name in quantized_layers(problem.student):
        layer = student.get_submodule(name)
        assert isinstance(layer, QuantizedLayer)
        assert torch.equal(layer.layer.weight, dequantize(layer.levels, layer.scale, layer.zero_point))
        assert layer.levels.min() >= layer.grid.qmin
        assert layer.levels.max() <= layer.grid.qmax


def test_batch_norms_come_and_go_without_a_trace(problem):
    student = copy.deepcopy(problem.student)
    train_layers(student, problem.teacher)
    integers = {name: layer.levels for name, layer in quantized_layers(problem.student).items()}
    with torch.no_grad():
        before = student(problem.images)
        insert_norms(student, student, problem.norms, problem.images)
        torch.testing.assert_close(student(problem.images), before, rtol=1e-4, atol=1e-5)
        settle_layers(student)
        torch.testing.assert_close(student(problem.images), before, rtol=1e-4, atol=1e-5)
    assert all(
        torch.equal(student.get_submodule(name.removesuffix(".quantized")).levels, integers[name]) for name in integers
    )


def test_behind_a_batch_norm_the_weight_has_the_size_it_had_before_the_folding(problem):
    student = copy.deepcopy(problem.student)
    train_layers(student, problem.teacher)
    name, before = next(iter(problem.norms.items()))
    scale = student.get_submodule(name).scale / gain(problem.teacher.get_submodule(name).weight, before.weight)
    insert_norms(student, student, problem.norms, problem.images)
    torch.testing.assert_close(student.get_submodule(name).weight, before.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(student.get_submodule(name).scale, scale)


def test_batch_norms_can_give_the_means_and_variances_of_the_float_model(problem):
    student = copy.deepcopy(problem.student)
    train_layers(student, problem.teacher)
    names, batches = list(problem.norms), problem.images
    with torch.no_grad():
        wanted = statistics(problem.teacher, names, batches)
        insert_norms(student, problem.teacher, problem.norms, batches)
        found = statistics(student, names, batches)
    for name in names:
        for one, two in zip(found[name], wanted[name], strict=True):
            torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-3)


def test_a_channel_that_folding_made_nothing_of_keeps_its_size():
    folded, unfolded = (
        torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]),
        torch.tensor([[6.0, 8.0], [1.0, 1.0], [0.0, 0.0]]),
    )
    assert gain(folded, unfolded).tolist() == [0.5, 1, 1]


def test_statistics_that_are_estimated_are_those_of_the_outputs(problem):
    student = copy.deepcopy(problem.student)
    train_layers(student, problem.teacher)
    insert_norms(student, student, {"stem": problem.norms["stem"]}, problem.images)
    stem = student.get_submodule("stem")
    with torch.no_grad():
        stem.weight.mul_(1.5)
        stem.scale.mul_(1.5)
        estimate_norms(student, problem.images)
        norm, stem.norm = stem.norm, None
        output = stem(problem.images)
    torch.testing.assert_close(norm.running_mean, output.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, output.var((0, 2, 3)), rtol=1e-3, atol=1e-4)
