"""What quantizing a layer at each candidate does: the tables that the searches minimise."""

import dataclasses

import torch
from torch import Tensor

from attnround.bits.allocation import Layer, Problem
from attnround.quantization.grid import BIT_WIDTHS, fake_quantize

NUM_CANDIDATES = 20  # clip ratios: 80 move the error by 1 % and take four times as long, for seven widths

Table = dict[str, dict[int, float]]  # layer name -> bit width -> distortion


def quantized(layer: Layer, bit_width: int, problem: Problem) -> Tensor:
    """The layer's weight [O, *rest], rounded to nearest."""
    observer = dataclasses.replace(problem.observer, num_candidates=NUM_CANDIDATES)
    grid = observer.grid(bit_width)
    return fake_quantize(layer.weight, *observer.search(layer.weight, grid), grid)


def weight_errors(problem: Problem) -> Table:
    """|Q_b(W) - W|^2 of each layer at each width."""
    return problem.remembered(
        "weight errors",
        lambda: {
            layer.name: {
                b: (quantized(layer, b, problem) - layer.weight).double().square().sum().item() for b in BIT_WIDTHS
            }
            for layer in problem.layers
        },
    )


def output_errors(problem: Problem) -> Table:
    """tr(E H E^T) / tr(W H W^T) of each layer at each width, E = Q_b(W) - W: its output's error, relative."""

    def compute() -> Table:
        moments = problem.second_moments()
        return {layer.name: _output_error(layer, moments[layer.name], problem) for layer in problem.layers}

    return problem.remembered("output errors", compute)


def _output_error(layer: Layer, covariance: Tensor, problem: Problem) -> dict[int, float]:
    signal = energy(layer.weight, covariance)
    return {
        b: energy(quantized(layer, b, problem) - layer.weight, covariance) / signal if signal > 0 else 0.0
        for b in BIT_WIDTHS
    }


def energy(weight: Tensor, covariance: Tensor) -> float:
    """tr(W H W^T) of a weight [O, *rest] with its inputs' covariance [G, n, n]."""
    rows = weight.detach().double().reshape(len(covariance), -1, covariance.shape[1])
    return (rows @ covariance.double() * rows).sum().clamp(min=0).item()


def network_errors(problem: Problem) -> Table:
    """Noise of the logits where one layer alone is quantized, at each width: the measured sensitivity."""
    return problem.remembered(
        "network errors",
        lambda: {
            layer.name: {b: problem.logit_noise(layer.name, quantized(layer, b, problem)) for b in BIT_WIDTHS}
            for layer in problem.layers
        },
    )


def fisher_errors(problem: Problem, num_probes: int) -> Table:
    """Mean Fisher information of a layer's weights times |Q_b(W) - W|^2, half of which the loss rises by."""
    information = fisher_information(problem, num_probes)
    return {
        name: {b: information[name] * error for b, error in errors.items()}
        for name, errors in weight_errors(problem).items()
    }


def fisher_information(problem: Problem, num_probes: int) -> dict[str, float]:
    """Layer name -> trace of the Fisher information over its number of weights."""
    traces = problem.remembered(("fisher traces", num_probes), lambda: problem.fisher_traces(num_probes))
    return {layer.name: traces[layer.name] / layer.weight.numel() for layer in problem.layers}


def variance(weight: Tensor) -> float:
    """Of all values of a weight, in float64."""
    return torch.var(weight.detach().double(), correction=0).item()
