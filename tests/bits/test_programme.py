import subprocess
import sys
from itertools import product

import pytest
import torch
from tests.bits.test_waterfill import cost, slots_of

from attnround.bits.programme import least_distortion


@pytest.mark.parametrize("seed", range(12))
def test_it_finds_what_brute_force_finds(seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 40, (5,), generator=generator).tolist()
    candidates = [2, 3, 4, 8]
    slots = slots_of(sizes, candidates)
    scale = 10 ** (6 * torch.rand(5, generator=generator) - 3)  # layers differ by orders of magnitude
    distortions = [
        {b: s.item() * 4.0**-b * (0.5 + torch.rand((), generator=generator).item()) for b in candidates} for s in scale
    ]
    limit = int((2.5 + 3 * torch.rand((), generator=generator).item()) * sum(sizes))

    def total(bits) -> float:
        return sum(distortion[b] for distortion, b in zip(distortions, bits, strict=True))

    bits = least_distortion(slots, distortions, limit)
    best = min((each for each in product(candidates, repeat=5) if cost(slots, each) <= limit), key=total)
    assert cost(slots, bits) <= limit
    assert total(bits) == pytest.approx(total(best), rel=1e-6)


@pytest.mark.parametrize(("below", "wanted"), [(0, [3, 3]), (1, [2, 3])])
def test_at_a_breakpoint_and_just_below(below, wanted):
    slots = slots_of([7, 11], [2, 3])
    distortions = [{2: 1.0, 3: 0.2}, {2: 2.0, 3: 0.3}]
    assert least_distortion(slots, distortions, 3 * 18 - below) == wanted


def test_the_lowest_budget_there_is():
    slots = slots_of([123_457, 999_983, 3], [2, 8])
    distortions = [{2: 1.0, 8: 0.0}] * 3
    assert least_distortion(slots, distortions, cost(slots, [2, 2, 2])) == [2, 2, 2]
    assert least_distortion(slots, distortions, cost(slots, [2, 2, 8]) - 1) == [2, 2, 2]
    assert least_distortion(slots, distortions, cost(slots, [2, 2, 8])) == [2, 2, 8]


def test_what_brings_nothing_is_spent_all_the_same():
    slots = slots_of([5, 5], [2, 4])
    assert least_distortion(slots, [{2: 0.0, 4: 0.0}] * 2, 5 * 8) == [4, 4]


@pytest.mark.parametrize("seed", range(12))
def test_no_bit_is_bought_that_does_harm(seed):
    """Measured noise need not fall with every bit."""
    generator = torch.Generator().manual_seed(seed)
    slots = slots_of(torch.randint(1, 40, (5,), generator=generator).tolist(), [2, 3, 4, 8])
    factors = 0.05 + 1.95 * torch.rand(5, 4, generator=generator)
    distortions = [{b: f.item() * 4.0**-b for b, f in zip([2, 3, 4, 8], row, strict=True)} for row in factors]
    limit = 4 * sum(slot.num_weights for slot in slots)

    def total(bits) -> float:
        return sum(distortion[b] for distortion, b in zip(distortions, bits, strict=True))

    best = min((each for each in product([2, 3, 4, 8], repeat=5) if cost(slots, each) <= limit), key=total)
    assert total(least_distortion(slots, distortions, limit)) == pytest.approx(total(best), rel=1e-6)


def test_the_solver_prints_nothing():
    """scipy 1.17's HiGHS prints on some problems, by C, which keeps its lines back where no terminal shows them."""
    code = """
import ctypes
from attnround.bits.programme import _unprinted
print("before", flush=True)
with _unprinted():
    ctypes.CDLL(None).puts(b"of the solver")
print("after")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter\n"
