"""Mixed precision from lossy coding length, without a combinatorial search.

    b_l = the candidate nearest to b0 + r_l - mean(r)

with r_l the coding length of layer l in bits per weight and b0 found by bisection so that the budget is met; a greedy
last step spends what the rounding to candidates left. Source of the idea: arXiv 2207.03088; the rule is this project's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from attnround.bits.allocation import Allocation, Allocator, WeightedLayer
from attnround.bits.coding_length import weight_rate
from attnround.errors import InputError, check_number
from attnround.quantization.pins import check_bit_width

BISECTIONS = 60  # halves the interval of b0 to below float64's resolution


@dataclass(frozen=True)
class Mixed(Allocator):
    """budget: mean bits of a weight, over all quantized layers, pinned ones counted; never exceeded.

    candidates: the bit widths on offer; eps: distortion relative to the layer's rms weight; codebook: count the code
    book's own (m + n) / m; pinned: `first`, `last` or a name pattern -> its bits.
    """

    budget: float = 4.0
    candidates: Sequence[int] = (2, 3, 4, 5, 6, 7, 8)
    eps: float = 0.1
    codebook: bool = False
    pinned: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for candidate in self.candidates:
            check_bit_width("bits.candidates", candidate)
        if not self.candidates:
            raise InputError("bits.candidates=[]: name at least one bit width from 2 to 8")
        check_number("bits.budget", self.budget, above=0)
        check_number("bits.eps", self.eps, above=0)

    def allocate(self, layers: Sequence[WeightedLayer]) -> Allocation:
        """Raises InputError where the budget is out of reach, with the range within it."""
        pins = self.pins(layers)
        free = {layer.name: layer.weight.numel() for layer in layers if layer.name not in pins}
        total = sum(layer.weight.numel() for layer in layers)
        pinned_bits = sum(layer.weight.numel() * pins[layer.name] for layer in layers if layer.name in pins)
        candidates = sorted(set(self.candidates))
        low, high = ((pinned_bits + sum(free.values()) * bits) / total for bits in (candidates[0], candidates[-1]))
        if not low <= self.budget <= high:
            low, high = math.ceil(low * 1000) / 1000, math.floor(high * 1000) / 1000  # what is said can be given
            raise InputError(
                f"bits.budget={self.budget} mean bits is out of reach: with bits.candidates={candidates} and "
                f"bits.pinned={dict(self.pinned)} this model takes {low} to {high}"
            )
        score = {layer.name: weight_rate(layer.weight, self.eps, self.codebook) for layer in layers}
        chosen = waterfill({name: score[name] for name in free}, free, candidates, self.budget * total - pinned_bits)
        return Allocation(
            {layer.name: pins[layer.name] if layer.name in pins else chosen[layer.name] for layer in layers},
            score,
            f"coding length of the folded weight's output filters, bits per weight, eps = {self.eps} rms"
            + (", code book counted" if self.codebook else ""),
        )


def waterfill(
    score: dict[str, float], sizes: dict[str, int], candidates: Sequence[int], budget_bits: float
) -> dict[str, int]:
    """Bits for each name so that sum size * bits <= budget_bits: one water level b0 for all, then the greedy rest.

    score: bits per weight; sizes: weights; candidates: ascending bit widths, the lowest of which must be affordable.
    The greedy rest gives the next candidate to the layer that the water level left furthest below its share, as long
    as one is affordable.
    """
    if not score:
        return {}
    mean = sum(score.values()) / len(score)

    def allocation(level: float) -> dict[str, int]:
        return {name: _nearest(level + rate - mean, candidates) for name, rate in score.items()}

    def cost(bits: dict[str, int]) -> int:
        return sum(sizes[name] * bits[name] for name in bits)

    spread = max(score.values()) - min(score.values())
    low, high = candidates[0] - spread - 1, candidates[-1] + spread + 1
    for _ in range(BISECTIONS):
        level = (low + high) / 2
        low, high = (level, high) if cost(allocation(level)) <= budget_bits else (low, level)
    bits = allocation(low)
    spare = budget_bits - cost(bits)
    while True:
        upgrades = {name: candidates[candidates.index(b) + 1] for name, b in bits.items() if b < candidates[-1]}
        affordable = {name: b for name, b in upgrades.items() if sizes[name] * (b - bits[name]) <= spare}
        if not affordable:
            return bits
        name = max(affordable, key=lambda each: low + score[each] - mean - bits[each])
        spare -= sizes[name] * (affordable[name] - bits[name])
        bits[name] = affordable[name]


def _nearest(value: float, candidates: Sequence[int]) -> int:
    return min(candidates, key=lambda candidate: (abs(candidate - value), candidate))
