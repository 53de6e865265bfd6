"""Bits from a score without a search: every slot gets its share above one common water level.

    b = the candidate nearest to b0 + r + 1/2 log2(num_weights / cost of a bit)

with r the score in bits a weight and b0 found by bisection so that the budget is met; a greedy last step spends what
the rounding to candidates left. It minimises sum num_weights 4^(r - b), the noise that a rate leaves, over fractional
b; where the budget counts weights the last term is nothing.
"""

import math
from collections.abc import Sequence

from attnround.bits.budget import Slot, spend_rest

BISECTIONS = 60  # halves the interval of b0 to below float64's resolution


def waterfill(slots: list[Slot], score: Sequence[float], limit: int) -> list[int]:
    """Bits for each slot within the limit, which the lowest candidates must be; score: bits a weight, a slot."""
    share = [each + 0.5 * math.log2(_weights_a_unit(slot)) for slot, each in zip(slots, score, strict=True)]

    def allocation(level: float) -> list[int]:
        return [nearest(level + each, slot.candidates) for slot, each in zip(slots, share, strict=True)]

    def cost(bits: list[int]) -> int:
        return sum(slot.costs[b] for slot, b in zip(slots, bits, strict=True))

    ends = [end for slot in slots for end in (slot.candidates[0], slot.candidates[-1])]
    low, high = min(ends) - max(share) - 1, max(ends) - min(share) + 1
    for _ in range(BISECTIONS):
        level = (low + high) / 2
        low, high = (level, high) if cost(allocation(level)) <= limit else (low, level)
    return spend_rest(slots, allocation(low), limit, [low + each for each in share])


def _weights_a_unit(slot: Slot) -> float:
    """Weights for the cost of a bit."""
    low, high = slot.candidates[0], slot.candidates[-1]
    each = (slot.costs[high] - slot.costs[low]) / (high - low) if high > low else slot.costs[low] / low
    return slot.num_weights / max(each, 1)


def nearest(value: float, candidates: Sequence[int]) -> int:
    """The nearest candidate, the lower of two."""
    return min(candidates, key=lambda candidate: (abs(candidate - value), candidate))
