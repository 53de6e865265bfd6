from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnround.bits import Layer
from attnround.bits.budget import Slot
from attnround.bits.waterfill import waterfill


def slots_of(sizes: list[int], candidates=range(2, 9)) -> list[Slot]:
    return [
        Slot((Layer(str(i), torch.zeros(1, size)),), {b: size * b for b in candidates}) for i, size in enumerate(sizes)
    ]


def cost(slots: list[Slot], bits) -> int:
    return sum(slot.costs[b] for slot, b in zip(slots, bits, strict=True))


problems = st.lists(st.tuples(st.floats(0, 6), st.integers(1, 50)), min_size=1, max_size=5)


@given(problems, st.floats(2, 8))
def test_it_spends_the_budget_and_no_more(problem, mean_bits):
    slots = slots_of([size for _, size in problem])
    limit = int(mean_bits * sum(size for _, size in problem))
    bits = waterfill(slots, [rate for rate, _ in problem], limit)
    spent = cost(slots, bits)
    assert spent <= limit
    upgrades = [slot.upgrade(b) for slot, b in zip(slots, bits, strict=True)]
    assert all(spent + upgrade[1] > limit for upgrade in upgrades if upgrade)


@given(problems, st.floats(2, 7.5))
def test_more_budget_is_spent(problem, mean_bits):
    slots = slots_of([10] * len(problem))
    less, more = (
        waterfill(slots, [rate for rate, _ in problem], int(10 * len(problem) * mean)) for mean in (mean_bits, 8)
    )
    assert sum(more) >= sum(less)


@given(problems)
def test_each_slot_gains_monotonely_with_the_level(problem):
    """Of equal slots none loses bits when the budget grows by a bit for each: the level lifts all."""
    slots, score = slots_of([10] * len(problem)), [rate for rate, _ in problem]
    before = waterfill(slots, score, 10 * len(problem) * 2)
    for mean in range(3, 9):
        bits = waterfill(slots, score, 10 * len(problem) * mean)
        assert sum(bits) >= sum(before)
        before = bits


@pytest.mark.parametrize("seed", range(20))
def test_it_is_within_one_upgrade_of_brute_force(seed):
    """No affordable allocation leaves less noise than it does by more than one step down of the best one's costs."""
    generator = torch.Generator().manual_seed(seed)
    rates = (torch.rand(4, generator=generator) * 4).tolist()
    sizes = torch.randint(1, 20, (4,), generator=generator).tolist()
    candidates = [2, 3, 4, 6, 8]
    slots, limit = slots_of(sizes, candidates), int(4.2 * sum(sizes))
    bits = waterfill(slots, rates, limit)

    def distortion(allocation) -> float:
        """What the shares minimise: sum of N 2^(2 (r - b)), the noise that a rate leaves."""
        return sum(n * 4.0 ** (r - b) for n, r, b in zip(sizes, rates, allocation, strict=True))

    affordable = [each for each in product(candidates, repeat=4) if cost(slots, each) <= limit]
    best = min(affordable, key=distortion)
    steps_down = [
        distortion([candidates[candidates.index(b) - 1] if i == j else b for j, b in enumerate(best)])
        for i, b in enumerate(best)
        if b > 2
    ]
    assert distortion(bits) <= max(steps_down, default=distortion(best)) + 1e-9


def test_a_higher_score_gets_more_bits():
    assert waterfill(slots_of([1, 1, 1]), [1.0, 2.0, 3.0], 12) == [3, 4, 5]


def test_a_dearer_bit_is_bought_later():
    """Sixteen times the operations for as many weights: two bits fewer."""
    cheap, dear = slots_of([1000, 1000])
    dear = Slot(dear.layers, {b: 16 * c for b, c in cheap.costs.items()})
    assert waterfill([cheap, dear], [0.0, 0.0], cheap.costs[6] + dear.costs[4]) == [6, 4]
