"""The search for a weight's scale: clipping a part of the range makes the steps of the rest finer.

Source: the norm 2.4 and the 80 clip ratios are the convention of BRECQ (arXiv 2102.05426) and QDrop (arXiv 2203.05740).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attnround.errors import check_number
from attnround.quantization.grid import Grid, fake_quantize
from attnround.quantization.shapes import Float

TINY = 1e-30  # keeps the ratio for a signal of zeros finite
# Binary exponents that |error|^norm is kept within: float32 has -126 to 127, and sums and importance need a margin.
LEAST, MOST = -100, 80
FINE = 9  # half a step of 8 bits is 2^-9 of the range


@dataclass(frozen=True)
class ClipSearch:
    """Minimises sum |w - fake_quantize(w)|^norm per output channel over clip ratios i/num_candidates of the range.

    With input_weighted, a weight's error is weighed by the second moment of the input that it is multiplied with.
    """

    norm: float = 2.4
    num_candidates: int = 80
    symmetric: bool = True
    input_weighted: bool = False

    def __post_init__(self) -> None:
        check_number("reconstruction.observer.norm", self.norm, above=0)
        check_number("reconstruction.observer.num_candidates", self.num_candidates, least=1, whole=True)

    def grid(self, bit_width: int) -> Grid:
        """The grid that this search finds scales for."""
        return Grid(bit_width, self.symmetric)

    def search(
        self,
        weight: Float[Tensor, " O *rest"],
        grid: Grid,
        importance: Float[Tensor, " O *rest"] | None = None,
    ) -> tuple[Float[Tensor, " O"], Float[Tensor, " O"]]:
        """Scale and zero point of each channel of a weight; importance weighs the errors.

        A channel of zeros has the scale 1.
        """
        rows = weight.detach().flatten(1)
        importance = importance.flatten(1) if importance is not None else None
        unit = self._unit(rows.abs().amax(1))
        rows = rows / unit[:, None]
        low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
        best_error = rows.new_full((len(rows),), torch.inf)
        best_scale, best_zero = torch.ones_like(low), torch.zeros_like(low)
        for ratio in torch.linspace(1 / self.num_candidates, 1, self.num_candidates).tolist():
            scale, zero_point = self._range(low * ratio, high * ratio, grid)
            error = (fake_quantize(rows, scale, zero_point, grid) - rows).abs_().pow_(self.norm)
            error = (error if importance is None else error * importance).sum(1)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scale = torch.where(better, scale, best_scale)
            best_zero = torch.where(better, zero_point, best_zero)
        scale = best_scale * unit
        return torch.where(scale > 0, scale, 1.0), best_zero

    def _unit(self, largest: Float[Tensor, " O"]) -> Float[Tensor, " O"]:
        """The power of two that a channel is divided by for the search, which changes no mantissa.

        It is 1, or that of the largest magnitude where powers of the channel's errors would leave float32.
        """
        mantissa, exponent = largest.frexp()
        inside = (self.norm * exponent < MOST) & (self.norm * (exponent - FINE) > LEAST)
        return torch.where(inside | (largest == 0), 1.0, largest / (2 * mantissa))

    def _range(
        self, low: Float[Tensor, " O"], high: Float[Tensor, " O"], grid: Grid
    ) -> tuple[Float[Tensor, " O"], Float[Tensor, " O"]]:
        if self.symmetric:
            scale = torch.maximum(high / grid.qmax, low / grid.qmin)
            zero_point = torch.zeros_like(scale)
        else:
            scale = (high - low) / (grid.qmax - grid.qmin)
            zero_point = torch.where(scale > 0, grid.qmin - low / scale, 0.0).round()
        return torch.where(scale > 0, scale, 1.0), zero_point


def sqnr_db(reference: Float[Tensor, "*shape"], noisy: Float[Tensor, "*shape"]) -> float:
    """Signal to quantization noise in dB, 10 log10(sum reference^2 / sum (reference - noisy)^2); inf without noise.

    NaN where either holds one.
    """
    reference, noisy = reference.double(), noisy.double()
    noise = (reference - noisy).square().sum().item()
    signal = reference.square().sum().item()
    if math.isnan(noise):
        return math.nan
    return 10 * math.log10(max(signal, TINY) / noise) if noise > 0 else math.inf
