"""Second moments of a layer's inputs: all that the layer objective needs to know of the calibration images.

With the inputs x in the float model and x' in the model quantized so far, as columns of the layer's matrix product and
centred on their means, and the drift d = x' - x between them, per group of a grouped convolution:

    H = E[x' x'^T]        pull = E[y x'^T]        signal = E|W x|^2        carried = E|y|^2        y = W d + r

y is what is wrong with the output before the weight is quantized: what the drift makes of it, and the drift r = s' - s
of another branch that is added to the output later, if there is one. The drift is summed by itself because the errors
to be told apart, at 8 bits, are smaller than what subtracting large float32 sums would leave of it.

In a metric G = F^T F of the outputs, all energies are those of F times an output, and the pull is F's product too.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnround.graph.kinds import grouped_rows
from attnround.graph.patches import Patches
from attnround.ranks import from_first, gathered, num_ranks, summed

BLOCK = 512  # rows of X^T X that are computed at a time
MANY_ROWS = 2  # rows for an input, from which on products of inputs alone are less work than those with outputs
NUM_VALUES = 2**22  # of columns at a time, if they are more columns than inputs: few large tensors, which fit a cache


@dataclass(frozen=True)
class Moments:
    """Float64, for G groups of o rows of n inputs.

    mean, mean_quantized: [G, n] of x and x'; second: H [G, n, n]; pull: [G, o, n]; mean_residual: of r [G, o];
    signal, carried: energies of the float layer's outputs and of y (variances, summed over channels);
    num_samples: columns seen; factor: F [G, o, o], upper triangular, of the metric, None where all outputs count alike.
    """

    mean: Tensor
    mean_quantized: Tensor
    second: Tensor
    pull: Tensor
    mean_residual: Tensor
    signal: float
    carried: float
    num_samples: int
    factor: Tensor | None = None

    def is_finite(self) -> bool:
        """Whether inputs are, and outputs whose squares float32 holds."""
        energies = math.isfinite(self.signal) and math.isfinite(self.carried)
        return bool(energies and self.second.isfinite().all() and self.pull.isfinite().all())


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
            if name in self.sums:
                self.sums[name].add_(value)
            else:
                self.sums[name] = value.to(self.dtype)

    def add_products(self, name: str, columns: Tensor) -> None:
        """Sum up X^T X of columns [G, m, n], as `add_product` does."""
        groups, _, n = columns.shape
        if name not in self.sums:
            self.sums[name] = columns.new_zeros(groups, n, n, dtype=self.dtype)
        add_product(self.sums[name], columns)

    def unite(self) -> None:
        """Make the sums those of all processes that have a part of the batches. The first one has the first batch."""
        if num_ranks() == 1:
            return
        assert self.origin is not None, "no process had a batch"
        shapes = from_first({name: value.shape for name, value in self.sums.items()})
        own = {
            name: self.sums.get(name, torch.zeros(shape, dtype=self.dtype, device=self.origin.device))
            for name, shape in shapes.items()
        }
        self.sums, self.count = summed(own), sum(gathered(self.count))

    def means(self) -> dict[str, Tensor]:
        """In the sums' own memory, so that nothing can be added after it."""
        return {name: total.div_(self.count) for name, total in self.sums.items()}


def covariance(product: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """E[a b^T] - E[a] E[b]^T, [G, n, n], from the mean product, in its place, and the means [G, n] of a and b."""
    return product.sub_(one[:, :, None] * other[:, None, :])


def add_product(total: Tensor, columns: Tensor) -> None:
    """Add X^T X of columns [G, m, n] to a total [G, n, n], above the diagonal alone: `mirrored` gives the rest."""
    for first in range(0, columns.shape[2], BLOCK):
        block = slice(first, first + BLOCK)
        total[:, block, first:] += columns[:, :, block].mT @ columns[:, :, first:]


def mirrored(products: Tensor) -> Tensor:
    """What `add_product` sums up, in place, with its other half."""
    for first in range(0, products.shape[2], BLOCK):
        block = slice(first, first + BLOCK)
        products[:, first:, block] = products[:, block, first:].mT.clone()
    return products


class MomentSums:
    """Sums up the moments of a float layer, batch by batch of its inputs.

    Products are float32 batch by batch and summed in float64; patches are never all held at once.
    factor: of the outputs' metric, see `Moments`.
    """

    def __init__(self, layer: nn.Module, patches: Patches, factor: Tensor | None = None):
        rows = grouped_rows(layer, layer.weight.detach())
        self.patches, self.factor = patches, factor
        self.rows = rows if factor is None else (factor @ rows.double()).to(rows.dtype)
        self.sums = CentredMeans(torch.float64)
        groups, num_rows, n = rows.shape
        self.by_inputs = n * MANY_ROWS <= num_rows
        self.num_images = max(1, NUM_VALUES // (groups * n * patches.num_positions), n // patches.num_positions)

    @torch.no_grad()
    def add(self, x: Tensor, x_quantized: Tensor, residual: Tensor | None = None) -> None:
        """Add a batch of inputs, in the float model and in the model quantized so far.

        residual: [N, *output], the drift of what is added to the output; all batches have one, or none.
        """
        size = self.num_images
        residuals = [None] * len(x) if residual is None else residual.split(size)
        for one, one_quantized, added in zip(x.split(size), x_quantized.split(size), residuals, strict=False):
            self._add(one, one_quantized, added)

    def skip(self, num_images: int) -> None:
        """Leave a batch of so many images to the process that has it; the first batch is the first process's."""
        if self.sums.origin is None:
            self.sums.origin = from_first(torch.empty(0)).to(self.rows.device)
        for first in range(0, num_images, self.num_images):
            self.patches.skip(min(self.num_images, num_images - first))

    def _add(self, x: Tensor, x_quantized: Tensor, residual: Tensor | None) -> None:
        columns, columns_quantized, *added = self.patches.draw(x, x_quantized, residual=residual)
        drift = columns_quantized - columns
        if self.sums.origin is None:
            self.sums.origin = from_first(columns_quantized.mean(1, keepdim=True).cpu()).to(columns.device)
        columns_quantized = self.sums.relative(columns_quantized)
        sums = {"quantized": columns_quantized.sum(1), "drift": drift.sum(1)}
        residual = None
        for rows in added:
            sums["residual"] = rows.sum(1)
            residual = rows if self.factor is None else rows @ self.factor.mT.to(rows.dtype)
        self.sums.add_products("second", columns_quantized)
        if self.by_inputs:
            self.sums.add_products("drift_square", drift)
            sums |= _met_by_inputs(columns_quantized, drift, residual)
        else:
            sums |= self._outputs(columns_quantized, self.sums.relative(columns), drift, residual)
        self.sums.add(columns.shape[1], **sums)

    def _outputs(
        self, columns_quantized: Tensor, columns: Tensor, drift: Tensor, residual: Tensor | None
    ) -> dict[str, Tensor]:
        """Sums of outputs, of what is wrong with them and of its products with inputs."""
        outputs, output_drift = columns @ self.rows.mT, drift @ self.rows.mT
        if residual is not None:
            output_drift += residual
        return {
            "pull": output_drift.mT @ columns_quantized,
            "output": outputs.sum(1),
            "output_square": outputs.square().sum(1),
            "output_drift": output_drift.sum(1),
            "output_drift_square": output_drift.square().sum(1),
        }

    def moments(self) -> Moments:
        self.sums.unite()
        mean = self.sums.means()
        assert self.sums.origin is not None, "moments of no batch"
        origin = self.sums.origin[:, 0].double()
        second = covariance(mirrored(mean["second"]), mean["quantized"], mean["quantized"])
        pull, signal, carried = self._of_inputs(mean, second) if self.by_inputs else self._of_outputs(mean)
        groups, num_rows, _ = self.rows.shape
        return Moments(
            mean=origin + mean["quantized"] - mean["drift"],
            mean_quantized=origin + mean["quantized"],
            second=second,
            pull=pull,
            mean_residual=mean.get("residual", torch.zeros(groups, num_rows, dtype=torch.float64).to(second.device)),
            signal=signal,
            carried=carried,
            num_samples=self.sums.count,
            factor=self.factor,
        )

    def _of_inputs(self, mean: dict[str, Tensor], second: Tensor) -> tuple[Tensor, float, float]:
        """Pull, signal and carried, where products of inputs were summed up."""
        rows = self.rows.double()
        cross = covariance(mean["cross"], mean["drift"], mean["quantized"])
        drift = covariance(mirrored(mean["drift_square"]), mean["drift"], mean["drift"])
        pull = rows @ cross
        signal = _energy_of(rows, second - cross - cross.mT + drift)
        carried = _energy_of(rows, drift)
        if "residual_pull" in mean:
            met = mean["residual_met"]
            pull += covariance(mean["residual_pull"], met, mean["quantized"])
            both = covariance(mean["residual_drift"], met, mean["drift"])
            carried += 2 * (both * rows).sum().item() + _energy(met, mean["residual_square"])
        return pull, signal, carried

    def _of_outputs(self, mean: dict[str, Tensor]) -> tuple[Tensor, float, float]:
        """The same where products with outputs were."""
        pull = covariance(mean["pull"], mean["output_drift"], mean["quantized"])
        signal, carried = (_energy(mean[name], mean[f"{name}_square"]) for name in ("output", "output_drift"))
        return pull, signal, carried


def _met_by_inputs(columns_quantized: Tensor, drift: Tensor, residual: Tensor | None) -> dict[str, Tensor]:
    """Sums of products of inputs with the drift and with a residual, in the metric, that is added to the output."""
    sums = {"cross": drift.mT @ columns_quantized}
    if residual is not None:
        sums |= {
            "residual_pull": residual.mT @ columns_quantized,
            "residual_drift": residual.mT @ drift,
            "residual_met": residual.sum(1),
            "residual_square": residual.square().sum(1),
        }
    return sums


def gather_moments(
    layer: nn.Module, inputs: Iterable[tuple[Tensor, Tensor]], patches: Patches, factor: Tensor | None = None
) -> Moments:
    """Moments of a float layer over batches of its inputs (in the float model, in the model quantized so far)."""
    sums = MomentSums(layer, patches, factor)
    for x, x_quantized in inputs:
        sums.add(x, x_quantized)
    return sums.moments()


def _energy_of(rows: Tensor, second: Tensor) -> float:
    """Of rows [G, o, n] times inputs with this covariance [G, n, n], summed over all channels."""
    return (rows @ second * rows).sum().clamp(min=0).item()


def _energy(mean: Tensor, square: Tensor) -> float:
    """Variance, summed over all channels."""
    return (square - mean.square()).clamp(min=0).sum().item()
