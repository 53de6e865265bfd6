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

With G a mean over places, errors at the places of an image move the output apart from each other. Before a global pool
they all move it the same way, and the noise is larger by up to the number of places. So by default the pivots D_H are

    diag(L^-1 J L^-T) / tr G        J = E[M^T M] of M = d output / d weight, inputs less their mean

where the effects of an error at all places come together: rounding against H = L D L^T leaves independent errors times
L^-1. H is of one half of the images and J of the other, as what is rounded meets other images than it was rounded for.
"""

import math

import torch
from torch import Tensor

from attnround.bits.allocation import Layer, Problem
from attnround.bits.distortion import quantized

OUTPUT_DAMPING, INPUT_DAMPING = 0.1, 0.01
PLACES = ("together", "apart")  # how the errors at the places of an image are taken
SCORE_BITS = 4  # the width at which layers are compared
TINY = 1e-30  # of the noise of a layer that nothing depends on, or whose weights are all zero

Factors = dict[str, tuple[Tensor, Tensor]]  # layer name -> pivots D_G [G, o], sums of the pivots D_H [G]


def network_rates(problem: Problem, kind: str, places: str = "together") -> dict[str, float]:
    """Layer name -> r, in bits a weight. kind: of the network's output, `logits` or `fisher`, as `Problem` says.

    places: of `PLACES`; `apart` has c = 1.
    """
    return {
        layer.name: 0.5 * math.log2(max(noise(layer, SCORE_BITS, problem, kind, places) / layer.weight.numel(), TINY))
        for layer in problem.layers
    }


def predicted_sqnr_db(problem: Problem, bit_width: dict[str, int], places: str = "together") -> float:
    """Signal to noise of the logits in dB, if these are the bits of the layers and their noises add up.

    A layer that is not named stays float.
    """
    total = sum(
        noise(layer, bit_width[layer.name], problem, "logits", places)
        for layer in problem.layers
        if layer.name in bit_width
    )
    return 10 * math.log10(max(problem.logit_energy(), TINY) / max(total, TINY))


def noise(layer: Layer, bit_width: int, problem: Problem, kind: str, places: str = "together") -> float:
    """Mean square change of an image's output by this layer alone, rounded as GPTQ does."""

    def compute() -> float:
        outputs, inputs = _factors(problem, kind, places)[layer.name]
        error = (quantized(layer, bit_width, problem) - layer.weight.detach()).double().flatten(1).square().mean(1)
        return ((error.reshape(outputs.shape) * outputs).sum(1) * inputs).sum().item()

    return problem.remembered(("network noise", kind, places, layer.name, bit_width), compute)


def _factors(problem: Problem, kind: str, places: str) -> Factors:
    def compute() -> Factors:
        metrics = problem.remembered(("metrics", kind), lambda: problem.output_metrics(kind))
        joint = problem.joint_moments(kind) if places == "together" else {}
        covariances = {} if joint else problem.shrunk_moments()
        found = {}
        for layer in problem.layers:
            metric = metrics[layer.name]
            if joint:
                trace = metric.double().diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
                inputs = torch.where(trace > 0, _pivots_met(*joint[layer.name]) / trace, 0.0)
            else:
                inputs = _factor(covariances[layer.name])[0].diagonal(dim1=1, dim2=2).square()
            found[layer.name] = pivots(metric, OUTPUT_DAMPING), inputs.sum(1)
        return found

    return problem.remembered(("pivots", kind, places), compute)


def _pivots_met(covariance: Tensor, joint: Tensor) -> Tensor:
    """diag(L^-1 J L^-T) [G, n]: what is left of J by rounding against the covariance L D L^T."""
    factor, order = _factor(covariance)
    half = torch.linalg.solve_triangular(factor, _ordered(joint, order).double(), upper=False)
    whole = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    return factor.diagonal(dim1=1, dim2=2).square() * whole.diagonal(dim1=1, dim2=2)


def pivots(matrix: Tensor, damping: float) -> Tensor:
    """D [G, n] of M = L D L^T in float64, M a second moment [G, n, n] with this share of it spread evenly."""
    return _cholesky(matrix, damping).diagonal(dim1=1, dim2=2).square()


def _factor(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """C of H = C C^T, with inputs in the order of their variance, and that order [G, n].

    The largest are rounded first, and all others make up for them.
    """
    order = covariance.diagonal(dim1=1, dim2=2).argsort(dim=1)
    return _cholesky(_ordered(covariance, order), INPUT_DAMPING), order


def _cholesky(matrix: Tensor, damping: float) -> Tensor:
    matrix = matrix.double()
    mean = matrix.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.cholesky((1 - damping) * matrix + (damping * mean + TINY) * eye)


def _ordered(matrix: Tensor, places: Tensor) -> Tensor:
    """[G, n, n] with rows and columns in this order [G, n]."""
    rows, columns = places[:, :, None].expand_as(matrix), places[:, None, :].expand_as(matrix)
    return matrix.gather(1, rows).gather(2, columns)
