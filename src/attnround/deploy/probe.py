"""A model's mark: what it gives for an image of noise, in a few numbers.

Names and shapes of weights do not tell a model with another stride, activation or pool from the one that was saved.
What it computes does.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from attnround.deploy.session import any_image
from attnround.graph import joined

NUM_PROJECTIONS = 8
# Of their length. Rounding on another processor may tip a code of few bits; another operation does more.
TOLERANCE = 0.05


@torch.no_grad()
def probe(model: nn.Module, size: Sequence[int]) -> list[float] | None:
    """Projections of all outputs for an image of this size [C, H, W] on random signs.

    None where there is nothing to compare: of a model that draws random numbers, or gives NaN or infinity.
    """
    image = any_image(list(size))
    outputs, again = (joined(model(image)).double().flatten().cpu() for _ in range(2))
    if not torch.equal(outputs, again) or not outputs.isfinite().all():
        return None
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (NUM_PROJECTIONS, len(outputs)), generator=generator, dtype=torch.int8)
    return [(2 * (outputs * row).sum() - outputs.sum()).item() for row in signs]


def differs(found: Sequence[float] | None, expected: Sequence[float] | None) -> bool:
    """Whether two models compute different things; not where there is nothing to compare."""
    if found is None or expected is None:
        return False
    return len(found) != len(expected) or not math.dist(found, expected) <= TOLERANCE * math.hypot(*expected)
