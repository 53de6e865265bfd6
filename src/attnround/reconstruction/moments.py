"""Second moments of a layer's inputs: all that the layer objective needs to know of the calibration images.

With the inputs x in the float model and x' in the model quantized so far, as columns of the layer's matrix product and
centred on their means, and the drift d = x' - x between them, per group of a grouped convolution:

    H = E[x' x'^T]        D = E[d x'^T]        signal = E|W x|^2        carried = E|W d|^2

E[x x'^T] is H - D. The drift is summed by itself because the errors to be told apart, at 8 bits, are smaller than what
subtracting large float32 sums would leave of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnround.graph.kinds import grouped_rows
from attnround.graph.patches import Patches


@dataclass(frozen=True)
class Moments:
    """Float64, for G groups of rows of n inputs.

    mean, mean_quantized: [G, n] of x and x'; second: H [G, n, n]; drift: D [G, n, n]; signal, carried: energies of the
    float layer's outputs (variances, summed over channels), of x and of the drift; num_samples: columns seen.
    """

    mean: Tensor
    mean_quantized: Tensor
    second: Tensor
    drift: Tensor
    signal: float
    carried: float
    num_samples: int

    def is_finite(self) -> bool:
        return bool(self.second.isfinite().all() and self.drift.isfinite().all())


@torch.no_grad()
def gather_moments(layer: nn.Module, inputs: Iterable[tuple[Tensor, Tensor]], patches: Patches) -> Moments:
    """Moments of a float layer over batches of its inputs (in the float model, in the model quantized so far).

    Products are float32 batch by batch and summed in float64; patches are never all held at once. Columns are taken
    relative to the first batch's mean: of large constant inputs float32 products would leave an H below zero.
    """
    rows = grouped_rows(layer, layer.weight.detach())
    count, sums, origin = 0, [0.0] * 8, None
    for x, x_quantized in inputs:
        columns, columns_quantized = patches.draw(x, x_quantized)
        drift = columns_quantized - columns
        origin = columns_quantized.mean(1, keepdim=True) if origin is None else origin
        columns, columns_quantized = columns - origin, columns_quantized - origin
        outputs, output_drift = columns @ rows.mT, drift @ rows.mT
        batch = (
            columns_quantized.sum(1),
            drift.sum(1),
            columns_quantized.mT @ columns_quantized,
            drift.mT @ columns_quantized,
            outputs.sum(1),
            outputs.square().sum(1),
            output_drift.sum(1),
            output_drift.square().sum(1),
        )
        sums = [total + part.double() for total, part in zip(sums, batch, strict=True)]
        count += columns.shape[1]
    mean, mean_drift, second, drift, *outputs = (total / count for total in sums)
    output, output_square, output_drift, output_drift_square = outputs
    origin = origin[:, 0].double()
    return Moments(
        origin + mean - mean_drift,
        origin + mean,
        second - mean[:, :, None] * mean[:, None, :],
        drift - mean_drift[:, :, None] * mean[:, None, :],
        (output_square - output.square()).clamp(min=0).sum().item(),
        (output_drift_square - output_drift.square()).clamp(min=0).sum().item(),
        count,
    )
