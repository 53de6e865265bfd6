"""What rounding a layer does to the network's output: its coding length in the network's metric, in closed form.

An error E [o, n] of a layer's weight changes the network's output by tr(G E H E^T), mean square for an image, with G
the metric of the layer's outputs and H the covariance of its inputs. Rounding to nearest pays the diagonals of both.
Rounding in which later weights make up for the errors of earlier ones (GPTQ, and what does at least as well) pays the
pivots D of H = L D L^T, whose product is det H, and of G where rows make up for each other too:

    noise(b) = sum_i e_i(b) D_G,i  sum_j D_H,j        r = 1/2 log2(noise(4) / weights)

with e_i(b) the mean square error of row i rounded to nearest at b bits, s_i^2 / 12 at a scale s_i that clips nothing.
r is the rate in bits that a weight needs above that of the other layers, so that all add the same noise: up to a
constant the log-determinant that a coding length is at small distortions, with the mean of the pivots in the place of
their geometric mean, which one dead input would make nothing of.
"""

import math

import torch
from torch import Tensor

from attnround.bits.allocation import Layer, Problem
from attnround.bits.distortion import quantized

OUTPUT_DAMPING, INPUT_DAMPING = 0.1, 0.01
SCORE_BITS = 4  # the width at which layers are compared
TINY = 1e-30  # of the noise of a layer that nothing depends on, or whose weights are all zero

Factors = dict[str, tuple[Tensor, Tensor]]  # layer name -> pivots D_G [G, o], sums of the pivots D_H [G]


def network_rates(problem: Problem, kind: str) -> dict[str, float]:
    """Layer name -> r, in bits a weight. kind: of the network's output, `logits` or `fisher`, as `Problem` says."""
    return {
        layer.name: 0.5 * math.log2(max(noise(layer, SCORE_BITS, problem, kind) / layer.weight.numel(), TINY))
        for layer in problem.layers
    }


def predicted_sqnr_db(problem: Problem, bit_width: dict[str, int]) -> float:
    """Signal to noise of the logits in dB, if these are the bits of the layers and their noises add up."""
    total = sum(noise(layer, bit_width[layer.name], problem, "logits") for layer in problem.layers)
    return 10 * math.log10(max(problem.logit_energy(), TINY) / max(total, TINY))


def noise(layer: Layer, bit_width: int, problem: Problem, kind: str) -> float:
    """Mean square change of an image's output by this layer alone, rounded as GPTQ does."""

    def compute() -> float:
        outputs, inputs = _factors(problem, kind)[layer.name]
        error = (quantized(layer, bit_width, problem) - layer.weight.detach()).double().flatten(1).square().mean(1)
        return ((error.reshape(outputs.shape) * outputs).sum(1) * inputs).sum().item()

    return problem.remembered(("network noise", kind, layer.name, bit_width), compute)


def _factors(problem: Problem, kind: str) -> Factors:
    def compute() -> Factors:
        metrics, covariances = problem.output_metrics(kind), problem.shrunk_moments()
        return {
            layer.name: (
                pivots(metrics[layer.name], OUTPUT_DAMPING),
                pivots(_ascending(covariances[layer.name]), INPUT_DAMPING).sum(1),
            )
            for layer in problem.layers
        }

    return problem.remembered(("pivots", kind), compute)


def pivots(matrix: Tensor, damping: float) -> Tensor:
    """D [G, n] of M = L D L^T in float64, M a second moment [G, n, n] with this share of it spread evenly."""
    matrix = matrix.double()
    mean = matrix.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    damped = (1 - damping) * matrix + (damping * mean + TINY) * eye
    return torch.linalg.cholesky(damped).diagonal(dim1=1, dim2=2).square()


def _ascending(covariance: Tensor) -> Tensor:
    """Inputs in the order of their variance: the largest are rounded first, and all others make up for them."""
    places = covariance.diagonal(dim1=1, dim2=2).argsort(dim=1)
    rows, columns = places[:, :, None].expand_as(covariance), places[:, None, :].expand_as(covariance)
    return covariance.gather(1, rows).gather(2, columns)
