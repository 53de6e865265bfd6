"""Second moments of a layer's inputs: all that the layer objective needs to know of the calibration images.

With the inputs x in the float model and x' in the model quantized so far, as columns of the layer's matrix product and
centred on their means, per group of a grouped convolution:

    H = E[x' x'^T]        K = E[x x'^T]        energy = E|W x|^2
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnround.models.patches import Patches, grouped_rows


@dataclass(frozen=True)
class Moments:
    """Float64, for G groups of rows of n inputs.

    mean, mean_quantized: [G, n] of x and x'; second: H [G, n, n]; cross: K [G, n, n]; energy: variance of the float
    layer's outputs, summed; num_samples: columns seen.
    """

    mean: Tensor
    mean_quantized: Tensor
    second: Tensor
    cross: Tensor
    energy: float
    num_samples: int


@torch.no_grad()
def gather_moments(layer: nn.Module, inputs: Iterable[tuple[Tensor, Tensor]], patches: Patches) -> Moments:
    """Moments of a float layer over batches of its inputs (in the float model, in the model quantized so far).

    Products are float32 batch by batch and summed in float64; patches are never all held at once.
    """
    rows = grouped_rows(layer, layer.weight.detach())
    count, sums = 0, [0.0] * 6
    for x, x_quantized in inputs:
        same = x is x_quantized
        drawn = patches.draw(x) if same else patches.draw(x, x_quantized)
        columns, columns_quantized = drawn[0], drawn[-1]
        outputs = columns @ rows.mT
        second = columns_quantized.mT @ columns_quantized
        batch = (
            columns.sum(1),
            columns_quantized.sum(1),
            second,
            second if same else columns.mT @ columns_quantized,
            outputs.sum(1),
            outputs.square().sum(1),
        )
        sums = [total + part.double() for total, part in zip(sums, batch, strict=True)]
        count += columns.shape[1]
    mean, mean_quantized, second, cross, output, output_square = (total / count for total in sums)
    return Moments(
        mean,
        mean_quantized,
        second - mean_quantized[:, :, None] * mean_quantized[:, None, :],
        cross - mean[:, :, None] * mean_quantized[:, None, :],
        (output_square - output.square()).clamp(min=0).sum().item(),
        count,
    )
