"""The lossy coding length of a set of vectors: the bits that code them up to a distortion.

    R(V) = 1/2 log2 det(I + n / (m eps^2) V V^T)  bits per vector        L(V) = (m + n) R(V)

for the m columns of V [n, m] and a squared distortion of eps^2 per vector.
Source: Ma, Derksen, Hong, Wright, "Segmentation of Multivariate Mixed Data via Lossy Data Coding and Compression",
IEEE TPAMI 29(9), 2007, eq. 6.
"""

import math

import torch
from torch import Tensor


def squared_singular_values(vectors: Tensor) -> Tensor:
    """Squared singular values of V [n, m] in float64, min(n, m) of them: all that R(V) depends on, for every eps."""
    v = vectors.double()
    gram = v @ v.T if v.shape[0] <= v.shape[1] else v.T @ v
    return torch.linalg.eigvalsh(gram).clamp_(min=0)


def coding_rate(squared_singular_values: Tensor, n: int, m: int, eps: float) -> float:
    """R in bits per vector, for m vectors of n dimensions and a root squared distortion eps per vector."""
    return 0.5 * torch.log1p(n / (m * eps**2) * squared_singular_values).sum().item() / math.log(2)


def weight_rate(weight: Tensor, eps: float = 0.1, codebook: bool = False) -> float:
    """Bits per weight of a layer: R / n, whose vectors are the output filters.

    weight: [O, *rest], batch norm folded; m = O, n = the product of rest. eps is relative to the layer's rms weight:
    the distortion of a vector is n (eps rms)^2. codebook adds the code book's own cost, (m + n) / m times as much.
    A layer of zeros costs nothing.
    """
    filters = weight.detach().flatten(1)
    m, n = filters.shape
    rms = filters.double().square().mean().sqrt().item()
    if rms == 0:
        return 0.0
    rate = coding_rate(squared_singular_values(filters.T), n, m, eps * rms * math.sqrt(n)) / n
    return rate * (m + n) / m if codebook else rate
