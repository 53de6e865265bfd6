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


class CentredMeans:
    """Means over columns that come in batches [G, m, n], each column taken relative to the first batch's mean.

    Products of large constant columns would leave covariances below zero in float32; relative ones do not. `dtype` is
    that of the sums over batches; a batch is summed in its own.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype, self.count = dtype, 0
        self.origin: Tensor | None = None
        self.sums: dict[str, Tensor] = {}

    def relative(self, columns: Tensor) -> Tensor:
        """The columns less the origin [G, 1, n], which is the mean of the first that are given."""
        if self.origin is None:
            self.origin = columns.mean(1, keepdim=True)
        return columns - self.origin

    def add(self, num_columns: int, **sums: Tensor) -> None:
        """Sums over so many columns, under the names by which `means` gives what they come to."""
        self.count += num_columns
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.to(self.dtype)

    def means(self) -> dict[str, Tensor]:
        return {name: total / self.count for name, total in self.sums.items()}


def covariance(product: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """E[a b^T] - E[a] E[b]^T, [G, n, n], from the mean product and the means [G, n] of a and b."""
    return product - one[:, :, None] * other[:, None, :]


class MomentSums:
    """Sums up the moments of a float layer, batch by batch of its inputs.

    Products are float32 batch by batch and summed in float64; patches are never all held at once.
    """

    def __init__(self, layer: nn.Module, patches: Patches):
        self.rows, self.patches = grouped_rows(layer, layer.weight.detach()), patches
        self.sums = CentredMeans(torch.float64)

    @torch.no_grad()
    def add(self, x: Tensor, x_quantized: Tensor) -> None:
        """Add a batch of inputs, in the float model and in the model quantized so far."""
        columns, columns_quantized = self.patches.draw(x, x_quantized)
        drift = columns_quantized - columns
        columns_quantized = self.sums.relative(columns_quantized)
        outputs, output_drift = self.sums.relative(columns) @ self.rows.mT, drift @ self.rows.mT
        self.sums.add(
            columns.shape[1],
            quantized=columns_quantized.sum(1),
            drift=drift.sum(1),
            second=columns_quantized.mT @ columns_quantized,
            drift_product=drift.mT @ columns_quantized,
            output=outputs.sum(1),
            output_square=outputs.square().sum(1),
            output_drift=output_drift.sum(1),
            output_drift_square=output_drift.square().sum(1),
        )

    def moments(self) -> Moments:
        mean = self.sums.means()
        assert self.sums.origin is not None, "moments of no batch"
        origin = self.sums.origin[:, 0].double()
        return Moments(
            mean=origin + mean["quantized"] - mean["drift"],
            mean_quantized=origin + mean["quantized"],
            second=covariance(mean["second"], mean["quantized"], mean["quantized"]),
            drift=covariance(mean["drift_product"], mean["drift"], mean["quantized"]),
            signal=_energy(mean["output"], mean["output_square"]),
            carried=_energy(mean["output_drift"], mean["output_drift_square"]),
            num_samples=self.sums.count,
        )


def gather_moments(layer: nn.Module, inputs: Iterable[tuple[Tensor, Tensor]], patches: Patches) -> Moments:
    """Moments of a float layer over batches of its inputs (in the float model, in the model quantized so far)."""
    sums = MomentSums(layer, patches)
    for x, x_quantized in inputs:
        sums.add(x, x_quantized)
    return sums.moments()


def _energy(mean: Tensor, square: Tensor) -> float:
    """Variance, summed over all channels."""
    return (square - mean.square()).clamp(min=0).sum().item()
