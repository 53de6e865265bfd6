"""The lossy coding length of a set of vectors: the bits that code them up to a distortion.

    R(V) = 1/2 log2 det(I + n / (m eps^2) V V^T)  bits per vector        L(V) = (m + n) R(V)

for the m columns of V [n, m] and a squared distortion of eps^2 per vector. It depends on what counts as a vector, on
what eps is relative to and on the folding of batch norms: a convention says all that.
Source: Ma, Derksen, Hong, Wright, "Segmentation of Multivariate Mixed Data via Lossy Data Coding and Compression",
IEEE TPAMI 29(9), 2007, eq. 6.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attnround.errors import InputError, check_number

VECTORS = ("filters", "inputs")
RELATIVE_TO = ("rms", "max", "nothing", "fisher")


def squared_singular_values(vectors: Tensor) -> Tensor:
    """Squared singular values of V [*, n, m] in float64, min(n, m) of them: all that R(V) depends on, for every eps."""
    v = vectors.double()
    gram = v @ v.mT if v.shape[-2] <= v.shape[-1] else v.mT @ v
    return torch.linalg.eigvalsh(gram).clamp_(min=0)


def coding_rate(squared_singular_values: Tensor, n: int, m: int, eps: float) -> float:
    """R in bits per vector, for m vectors of n dimensions and a root squared distortion eps per vector."""
    return 0.5 * torch.log1p(n / (m * eps**2) * squared_singular_values).sum().item() / math.log(2)


@dataclass(frozen=True)
class Spectrum:
    """What the coding length of a weight depends on: sets V [G, n, m] by their squared singular values [G, min(n, m)]
    and their largest entry."""

    squared: Tensor
    n: int
    m: int
    largest: float

    @property
    def rms(self) -> float:
        return math.sqrt(self.squared.sum().item() / (len(self.squared) * self.n * self.m))


@dataclass(frozen=True)
class Convention:
    """What is coded, and how well.

    vectors: `filters`, the columns of V are the output filters (n inputs each), or `inputs`, they are what an input
    gives to each output; eps: distortion of an entry, relative to V's `rms` or `max`imum, to `nothing`, or, with
    `fisher`, to what costs the network's output the same in every layer; codebook: count the code book's own bits,
    (m + n) / m times as much; input_weighted: V is the weight times the root of its
    inputs' covariance, so that what the layer puts out is coded, each group of a grouped convolution by itself;
    folded: of the weight with batch norm folded in.
    """

    vectors: str = "filters"
    eps: float = 0.1
    relative_to: str = "rms"
    codebook: bool = False
    input_weighted: bool = False
    folded: bool = True

    def __post_init__(self) -> None:
        check_number("bits.eps", self.eps, above=0)
        for option, allowed in (("vectors", VECTORS), ("relative_to", RELATIVE_TO)):
            if getattr(self, option) not in allowed:
                raise InputError(f"bits.{option}={getattr(self, option)}: give one of {', '.join(allowed)}")

    def __str__(self) -> str:
        weight = f"{'' if self.folded else 'un'}folded weight"
        weight = f"{weight} times the root of its inputs' covariance" if self.input_weighted else weight
        unit = {"rms": " rms", "max": " max", "nothing": "", "fisher": " of the mean rms in the Fisher metric"}
        eps = f"eps = {self.eps:g}{unit[self.relative_to]}"
        book = ", code book counted" if self.codebook else ""
        return f"coding length of the {weight}, vectors are {self.vectors}, bits per weight, {eps}{book}"

    def spectrum(self, weight: Tensor, covariance: Tensor | None = None) -> Spectrum:
        """Of a weight [O, *rest]; covariance of its inputs: [G, n, n], for G groups of n inputs."""
        rows = weight.detach().double().flatten(1)[None]
        if covariance is not None:
            values, vectors = torch.linalg.eigh(covariance.double())
            root = vectors * values.clamp(min=0).sqrt()[:, None, :] @ vectors.mT
            rows = rows.reshape(len(root), -1, rows.shape[2]) @ root
        v = rows.mT if self.vectors == "filters" else rows
        return Spectrum(squared_singular_values(v), v.shape[1], v.shape[2], rows.abs().max().item())

    def rate(self, spectrum: Spectrum, unit: float = 1.0) -> float:
        """Bits per weight, R / n. A layer of zeros costs nothing. unit: of eps, where that is not the weight's own."""
        unit = {"rms": spectrum.rms, "max": spectrum.largest}.get(self.relative_to, unit)
        if spectrum.largest == 0:
            return 0.0
        n, m = spectrum.n, spectrum.m
        rate = coding_rate(spectrum.squared, n, m, self.eps * unit * math.sqrt(n)) / n / len(spectrum.squared)
        return rate * (m + n) / m if self.codebook else rate


def weight_rate(weight: Tensor, convention: Convention = Convention()) -> float:
    """Bits per weight of a layer's weight [O, *rest]."""
    return convention.rate(convention.spectrum(weight))
