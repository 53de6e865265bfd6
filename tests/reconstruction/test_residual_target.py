"""A layer that makes up for the drift of what its output is added to: the sum behind it, with and without that."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tests.conftest import ROOT
from tests.reconstruction.conftest import make_problem
from torch import Tensor, nn

from attnround.data.fashion_mnist import read_idx
from attnround.graph import captured, find_layers, fold_batch_norms, swap_layers
from attnround.graph.branches import find_branches, terms
from attnround.graph.trace import executor, graph_of
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import Mse
from attnround.quantization.rounding import GPTQ, AttentionRound
from attnround.reconstruction import LayerReconstruction, reconstruct


def settings(residual_target: bool, num_positions: int = 10_000) -> LayerReconstruction:
    return LayerReconstruction(
        observer=ClipSearch(), residual_target=residual_target, num_positions=num_positions, held_out=0
    )


def errors_of_sums(teacher: nn.Module, student: nn.Module, images: Tensor) -> list[Tensor]:
    """What each of the network's sums [N, C, H, W] is off by, in the order of the graph."""
    graph = graph_of(teacher)
    runs = [executor(model, graph) for model in (teacher, student)]
    with torch.no_grad():
        for run in runs:
            run.run(images)
    return [runs[1].env[node] - runs[0].env[node] for node in graph.nodes if terms(node)]


@pytest.mark.parametrize("search", [None, Mse(4)], ids=["float inputs", "quantized inputs"])
def test_the_mean_of_a_sum_is_the_float_one_on_the_calibration_images(two_blocks, search):
    problem = make_problem(two_blocks, search, bits=2)
    means = {}
    for residual_target in (False, True):
        student, _ = problem.run(GPTQ(), settings(residual_target))
        errors = errors_of_sums(problem.teacher, student, problem.images)
        means[residual_target] = max(error.mean((0, 2, 3)).abs().max().item() for error in errors)
    assert means[True] < 1e-5
    assert means[False] > 1e-3


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor]:
    """The embedded ResNet with its batch norms folded, and images."""
    config = OmegaConf.create({"paths": {"assets": str(ROOT / "assets")}})
    config.model = OmegaConf.load(ROOT / "conf/model/resnet18_slim.yaml")
    model = captured(instantiate(config.model, _convert_="all").build())
    fold_batch_norms(model)
    pixels = read_idx(ROOT / "assets/fashion_mnist/train10k-images-idx3-ubyte.gz")[:64, None]
    return model, (pixels / 255 - model.preprocessing["mean"][0]) / model.preprocessing["std"][0]


def test_a_trained_networks_sums_are_closer_to_the_float_ones(trained):
    teacher, images = trained
    energies = {}
    for residual_target in (False, True):
        student = swap_layers(teacher, dict.fromkeys(find_layers(teacher), 2), ClipSearch())
        reconstruct(teacher, student, images, AttentionRound(num_steps=3), settings(residual_target, 100))
        energies[residual_target] = [error.square().mean().item() for error in errors_of_sums(teacher, student, images)]
    assert len(energies[True]) == 8
    assert all(new < old for new, old in zip(energies[True], energies[False], strict=True))


def test_only_the_one_of_two_branches_that_runs_last_makes_up_for_the_other(trained):
    teacher, _ = trained
    graph = graph_of(teacher)
    taking = [name for name in find_layers(teacher) if find_branches(name, graph, teacher).operands]
    assert taking == [
        "layer1.0.conv2", "layer1.1.conv2", "layer2.0.downsample.0", "layer2.1.conv2", "layer3.0.downsample.0",
        "layer3.1.conv2", "layer4.0.downsample.0", "layer4.1.conv2",
    ]  # fmt: skip
