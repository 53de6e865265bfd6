"""The coding length in the network's metric: against determinants, against GPTQ, and what it must not depend on."""

import dataclasses
import json
import math

import pytest
import torch
from torch import Tensor, nn

from attnround.bits import Layer, Mixed, Problem, allocation_json
from attnround.bits.distortion import quantized
from attnround.bits.network_metric import network_rates, noise, pivots, predicted_sqnr_db
from attnround.calibration import sensitivity
from attnround.calibration.sensitivity import input_covariances, joint_moments
from attnround.errors import InputError
from attnround.graph import capture, find_layers, fold_batch_norms
from attnround.problem import bit_problem
from attnround.quantization.grid import Grid
from attnround.quantization.observer import ClipSearch
from attnround.quantization.rounding.gptq import round_greedily


def second_moment(n: int, generator: torch.Generator, groups: int = 1) -> Tensor:
    """[G, n, n] of correlated values, which later weights can make up for."""
    mixing = torch.randn(groups, n, n, generator=generator) * torch.linspace(0.1, 2, n)
    return mixing @ mixing.mT / n


def problem_of(weights: dict[str, Tensor], metrics: dict[str, Tensor], moments: dict[str, Tensor]) -> Problem:
    return Problem(
        [Layer(name, weight) for name, weight in weights.items()],
        output_metrics=lambda kind: metrics,
        second_moments=lambda: moments,
        shrunk_moments=lambda: moments,
        joint_moments=lambda kind: {name: (moments[name], trace(metrics[name]) * moments[name]) for name in weights},
        logit_energy=lambda: 100.0,
    )


def trace(metric: Tensor) -> Tensor:
    """With it a layer's joint moment is as where errors at the places of an image do not meet."""
    return metric.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_the_product_of_the_pivots_is_the_determinant(damping, generator):
    matrix = second_moment(7, generator, groups=3)
    mean = matrix.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    damped = ((1 - damping) * matrix + damping * mean * torch.eye(7)).double()
    found = pivots(matrix, damping)
    torch.testing.assert_close(found.log().sum(1), torch.linalg.slogdet(damped)[1], rtol=1e-5, atol=1e-5)
    assert (found <= damped.diagonal(dim1=1, dim2=2) * (1 + 1e-6)).all()


def test_uncorrelated_outputs_and_inputs_pay_their_variances(generator):
    weight = torch.randn(4, 6, generator=generator)
    metric, moment = torch.eye(4)[None] * 3, torch.eye(6)[None] * 2
    problem = problem_of({"layer": weight}, {"layer": metric}, {"layer": moment})
    error = (quantized(problem.layers[0], 8, problem) - weight).square().sum().item()
    assert noise(problem.layers[0], 8, problem, "logits") == pytest.approx(6 * error, rel=1e-5)


def test_it_is_what_greedy_rounding_leaves(generator):
    """tr(G E H E^T) of GPTQ at 5 bits, with outputs that do not make up for each other; nearest leaves far more."""
    weight, moment = torch.randn(64, 48, generator=generator), second_moment(48, generator)
    metric = torch.diag(torch.rand(64, generator=generator) + 0.5)[None]
    problem = problem_of({"layer": weight}, {"layer": metric}, {"layer": moment})
    grid = Grid(5)
    scale = problem.observer.search(weight, grid)[0].double().reshape(1, 64, 1)
    centre = weight.double()[None] / scale
    damped = 0.99 * moment + 0.01 * moment.diagonal(dim1=1, dim2=2).mean() * torch.eye(48)

    def left(levels: Tensor) -> float:
        error = (levels - centre) * scale
        return (metric.double() * (error @ damped.double() @ error.mT)).sum().item()

    predicted = noise(problem.layers[0], 5, problem, "logits")
    greedy = left(round_greedily(centre, damped, grid, order="activation"))
    assert predicted == pytest.approx(greedy, rel=0.25)
    assert left(centre.round().clamp(grid.qmin, grid.qmax)) > 2 * predicted


@torch.no_grad()
def logits_with(model: nn.Module, name: str, weight: Tensor, images: Tensor) -> Tensor:
    """With this weight for the layer's, and the bias that keeps its mean output."""
    layer, means = model.get_submodule(name), []
    hook = layer.register_forward_hook(lambda layer, args, y: means.append(y.transpose(0, 1).flatten(1).mean(1)))
    model(images)
    values = layer.weight.clone(), layer.bias.clone()
    layer.weight.copy_(weight)
    model(images)
    layer.bias += means[0] - means[1]
    hook.remove()
    changed = model(images)
    layer.weight.copy_(values[0])
    layer.bias.copy_(values[1])
    return changed


def test_it_is_the_change_of_the_logits_by_each_layer_of_a_network(network, generator):
    """Each layer alone rounded to 4 bits by GPTQ on its inputs' covariance: measured within a factor of 2."""
    fold_batch_norms(network)
    images = torch.randn(256, 3, 16, 16, generator=generator)
    problem = bit_problem(network, images, ClipSearch(), {}, {}, seed=0)
    alone = {name: torch.diag_embed(g.diagonal(dim1=1, dim2=2)) for name, g in problem.output_metrics("logits").items()}
    problem = dataclasses.replace(problem, output_metrics=lambda kind: alone)  # rows do not make up for each other here
    float_logits = network(images).detach()
    for layer in problem.layers:
        moment = problem.second_moments()[layer.name].double()
        moment = 0.99 * moment + 0.01 * moment.diagonal(dim1=1, dim2=2).mean() * torch.eye(moment.shape[1])
        scale = problem.observer.search(layer.weight, Grid(4))[0].double().reshape(len(moment), -1, 1)
        rows = layer.weight.detach().double().reshape(len(moment), -1, moment.shape[1])
        levels = round_greedily(rows / scale, moment, Grid(4), order="activation")
        rounded = (levels * scale).reshape(layer.weight.shape).float()
        moved = logits_with(network, layer.name, rounded, images) - float_logits
        change = (moved - moved.mean(0)).square().sum(1).mean().item()  # biases make up for the mean
        assert change / 2 < noise(layer, 4, problem, "logits") < 2 * change, layer.name


def test_a_factor_moved_from_one_layer_to_the_next_changes_nothing(generator):
    """Twice the weight before a ReLU and half of it behind: the same network, which needs the same bits."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    images = torch.randn(64, 3, 6, 6, generator=generator)

    def problem() -> Problem:
        return bit_problem(capture(net, images[:1]), images, ClipSearch(), {}, {}, seed=0)

    before = problem()
    with torch.no_grad():
        net[0].weight.mul_(2)
        net[2].weight.div_(2)
    after = problem()
    assert network_rates(after, "logits") == pytest.approx(network_rates(before, "logits"), abs=1e-4)
    assert network_rates(after, "fisher") == pytest.approx(network_rates(before, "fisher"), abs=1e-4)
    assert Mixed(budget=3).allocate(after).bit_width == Mixed(budget=3).allocate(before).bit_width


def test_a_grouped_layer_pays_as_its_groups_do(generator):
    weight = torch.randn(6, 5, generator=generator)
    metric, moment = second_moment(2, generator, groups=3), second_moment(5, generator, groups=3)
    whole = problem_of({"all": weight}, {"all": metric}, {"all": moment})
    parts = problem_of(
        {str(i): weight[2 * i : 2 * i + 2] for i in range(3)},
        {str(i): metric[i : i + 1] for i in range(3)},
        {str(i): moment[i : i + 1] for i in range(3)},
    )
    together = sum(noise(layer, 4, parts, "logits") for layer in parts.layers)
    assert noise(whole.layers[0], 4, whole, "logits") == pytest.approx(together)


@pytest.mark.parametrize("relative_to", ["logits", "prediction"])
def test_what_changes_nothing_gets_the_fewest_bits(relative_to, generator):
    """A layer of zeros, one that the output does not depend on, and one whose inputs are constant."""
    names = ("plain", "zeros", "unused", "constant", "last")
    weights = {name: torch.randn(4, 8, generator=generator) for name in names}
    weights["zeros"] = torch.zeros(4, 8)
    metrics, moments = ({name: second_moment(size, generator) for name in names} for size in (4, 8))
    metrics["unused"], moments["constant"] = torch.zeros(1, 4, 4), torch.zeros(1, 8, 8)
    allocation = Mixed(budget=3.6, relative_to=relative_to).allocate(problem_of(weights, metrics, moments))
    bits = allocation.bit_width
    assert bits["zeros"] == bits["unused"] == bits["constant"] == 2
    assert min(bits["plain"], bits["last"]) > 2
    assert all(math.isfinite(score) for score in allocation.score.values())


def test_a_layer_that_is_no_part_of_the_output_has_no_metric(generator):
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.aside = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x) + 0 * self.aside(x)

    images = torch.randn(16, 4, generator=generator)
    problem = bit_problem(capture(Aside(), images[:1]), images, ClipSearch(), {}, {}, seed=0)
    metrics = problem.output_metrics("logits")
    assert not metrics["aside"].any()
    assert metrics["used"].diagonal(dim1=1, dim2=2) == pytest.approx(1.0)


def test_the_metric_is_summed_over_places(generator):
    """The logits are sums over 16 pixels: signs are the gradient at each, so G is 16 times the identity."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(64, 3, 4, 4, generator=generator)
    (metric,) = bit_problem(capture(net, images[:1]), images, ClipSearch(), {}, {}, 0).output_metrics("logits").values()
    assert metric.diagonal(dim1=1, dim2=2) == pytest.approx(16 / 16**2)


@pytest.mark.parametrize("kind", ["logits", pytest.param("fisher", marks=pytest.mark.slow)])
def test_joint_moments_are_those_of_each_images_gradient(kind, generator, monkeypatch):
    """Of one output the projection is its sign alone, so that a batch of one image gives its gradient exactly."""
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.AdaptiveAvgPool2d(1))
    net.extend([nn.Flatten(), nn.Linear(6, 1 if kind == "logits" else 3)])
    monkeypatch.setattr(sensitivity, "SHARED", 1)
    images = torch.randn(12, 4, 6, 6, generator=generator)
    model = capture(net, images[:1])
    covariances = input_covariances(model, list(find_layers(model)), images, 0)
    means = {name: each.mean for name, each in covariances.items()}
    found = joint_moments(model, means, images, kind, 0, num_probes=1 if kind == "logits" else 800)
    for name, mean in means.items():
        layer, gradients, chances = model.get_submodule(name), [], []
        for image in images:
            logits = model(image[None])[0]
            chances += logits.detach().softmax(0).tolist()
            for value in logits if kind == "logits" else -logits.log_softmax(0):
                of_weight, of_bias = torch.autograd.grad(value, (layer.weight, layer.bias), retain_graph=True)
                rows = of_weight.flatten(1) - of_bias[:, None] * mean.repeat_interleave(len(of_bias) // len(mean), 0)
                gradients.append(rows.reshape(len(mean), -1, mean.shape[1]))
        rows, weight = torch.stack(gradients), torch.tensor(chances)[:, None, None, None]
        rows = rows - (weight * rows).sum(0) / weight.sum()
        expected = (weight * (rows.mT @ rows)).sum(0) / (len(images) - (kind == "logits"))
        assert (found[name] - expected).norm() < (1e-4 if kind == "logits" else 0.1) * expected.norm()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_random_sums_of_many_rows_have_their_moments(generator, monkeypatch):
    net = nn.Sequential(nn.Conv2d(4, 96, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 40))
    images = torch.randn(64, 4, 5, 5, generator=generator)
    model, means = capture(net, images[:1]), {"0": torch.zeros(1, 4), "4": torch.zeros(1, 96)}
    few = joint_moments(model, means, images, "logits", 0)
    monkeypatch.setattr(sensitivity, "NUM_ROWS", 96)
    for name, every in joint_moments(model, means, images, "logits", 0).items():
        assert (few[name] - every).norm() < 0.3 * every.norm()
        assert few[name][0].trace().item() == pytest.approx(every[0].trace().item(), rel=0.2)


@pytest.mark.parametrize(("alike", "expected"), [(True, 16.0), (False, 1.0)])
def test_places_that_are_alike_move_a_pooled_output_together(alike, expected, generator, monkeypatch):
    monkeypatch.setattr(sensitivity, "SHARED", 1)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(256, 3, 1 if alike else 4, 1 if alike else 4, generator=generator).expand(-1, -1, 4, 4)
    problem = bit_problem(capture(net, images[:1].contiguous()), images.contiguous(), ClipSearch(), {}, {}, 0)
    (layer,) = problem.layers
    apart, together = (noise(layer, 4, problem, "logits", places) for places in ("apart", "together"))
    assert together / apart == pytest.approx(
        expected, rel=0.3
    )  # sums of 32 batches have 93 degrees of freedom: 2 sigma


def test_places_of_another_word():
    with pytest.raises(InputError, match=r"bits\.places=togther: give together"):
        Mixed(budget=4, places="togther")


def test_a_prediction_grows_with_the_bits_and_is_written(problem):
    predicted = [Mixed(budget=budget).allocate(problem).predicted_sqnr_db for budget in (2, 3, 4, 6, 8)]
    assert predicted == sorted(predicted)
    assert 4 < (predicted[-1] - predicted[-2]) / 2 < 7  # 6 dB a bit
    allocation = Mixed(budget=3).allocate(problem)
    written = json.loads(allocation_json(allocation, problem.layers))
    assert written["predicted_sqnr_db"] == pytest.approx(allocation.predicted_sqnr_db, abs=0.01)
    total = sum(noise(layer, allocation.bit_width[layer.name], problem, "logits") for layer in problem.layers)
    assert allocation.predicted_sqnr_db == pytest.approx(10 * math.log10(1e6 / total))
    louder = dataclasses.replace(problem, logit_energy=lambda: 1e7, answers={})
    assert predicted_sqnr_db(louder, allocation.bit_width) == pytest.approx(allocation.predicted_sqnr_db + 10)
    other = Mixed(budget=3, relative_to="rms").allocate(problem)
    assert other.predicted_sqnr_db is None
    assert "predicted_sqnr_db" not in allocation_json(other, problem.layers)
