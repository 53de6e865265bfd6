"""A model's mark: what it gives for an image of noise, in a few numbers.

Names and shapes of weights do not tell a model with another stride, activation or pool from the one that was saved.
What it computes does.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attnround.deploy.session import any_image
from attnround.graph import joined
from attnround.machine import as_usual

NUM_PROJECTIONS = 8
EXACT = 1e-3  # of their length: floats in another order differ by less, and another operation by more
TIPPED = 0.05  # the same where values are quantized: rounding on another processor may tip a code of few bits


@torch.no_grad()
@as_usual()
def probe(model: nn.Module, size: Sequence[int]) -> list[float] | None:
    """Projections on random signs of what all outputs for an image of noise [C, H, W] differ by from those for zeros.

    None where there is nothing to compare: of a model that draws random numbers, or gives NaN or infinity.
    """
    image = any_image(list(size))

    def outputs(x: Tensor) -> Tensor:
        return joined(model(x), len(x)).double().flatten().cpu()

    found = outputs(image)
    if not torch.equal(found, outputs(image)) or not found.isfinite().all():
        return None
    found = found - outputs(torch.zeros_like(image))
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (NUM_PROJECTIONS, len(found)), generator=generator, dtype=torch.int8)
    return [(2 * (found * row).sum() - found.sum()).item() for row in signs]


def differs(found: Sequence[float] | None, expected: Sequence[float], quantizes_values: bool) -> bool:
    """Whether two models compute different things; not where there is nothing to compare."""
    if found is None:
        return False
    tolerance = TIPPED if quantizes_values else EXACT
    return len(found) != len(expected) or not math.dist(found, expected) <= tolerance * math.hypot(*expected)
