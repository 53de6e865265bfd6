from dataclasses import dataclass
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnround.bits import Mixed, Uniform
from attnround.bits.mixed import waterfill
from attnround.errors import InputError


@dataclass
class Layer:
    name: str
    weight: torch.Tensor


def layers(*sizes: int) -> list[Layer]:
    generator = torch.Generator().manual_seed(0)
    return [
        Layer(f"block.{i}", torch.randn(4, size, generator=generator) * torch.rand(4, 1, generator=generator))
        for i, size in enumerate(sizes)
    ]


problems = st.lists(st.tuples(st.floats(0, 6), st.integers(1, 50)), min_size=1, max_size=5)


@given(problems, st.floats(2, 8))
def test_waterfill_spends_the_budget_and_no_more(problem, mean_bits):
    score = {str(i): rate for i, (rate, _) in enumerate(problem)}
    sizes = {str(i): size for i, (_, size) in enumerate(problem)}
    candidates = [2, 3, 4, 5, 6, 7, 8]
    budget = mean_bits * sum(sizes.values())
    bits = waterfill(score, sizes, candidates, budget)
    spent = sum(sizes[name] * bits[name] for name in bits)
    assert spent <= budget
    cheapest = min((sizes[name] for name in bits if bits[name] < 8), default=None)
    assert cheapest is None or spent + cheapest > budget


@given(problems, st.floats(2, 7.5))
def test_one_more_bit_for_all_is_spent_as_one_more_bit_each(problem, mean_bits):
    """Raising the budget by a bit a weight lifts the water by a bit: no layer that is not at the top falls behind."""
    score = {str(i): rate for i, (rate, _) in enumerate(problem)}
    equal = dict.fromkeys(score, 10)
    less = waterfill(score, equal, range(2, 9), mean_bits * 10 * len(score))
    more = waterfill(score, equal, range(2, 9), (mean_bits + 0.5) * 10 * len(score))
    assert sum(more.values()) >= sum(less.values())


@pytest.mark.parametrize("seed", range(20))
def test_waterfill_is_within_one_upgrade_of_brute_force(seed):
    """No affordable allocation leaves less noise than it does by more than one step down of the best one's costs."""
    generator = torch.Generator().manual_seed(seed)
    rates = (torch.rand(4, generator=generator) * 4).tolist()
    sizes = torch.randint(1, 20, (4,), generator=generator).tolist()
    names = [str(i) for i in range(4)]
    candidates = [2, 3, 4, 6, 8]
    budget = 4.2 * sum(sizes)
    score, size = dict(zip(names, rates, strict=True)), dict(zip(names, sizes, strict=True))
    bits = waterfill(score, size, candidates, budget)

    def distortion(allocation) -> float:
        """What the shares minimise: sum of N 2^(2 (r - b)), the noise that a rate leaves."""
        return sum(n * 4.0 ** (r - b) for n, r, b in zip(sizes, rates, allocation, strict=True))

    affordable = [
        each for each in product(candidates, repeat=4) if sum(n * b for n, b in zip(sizes, each, strict=True)) <= budget
    ]
    best = min(map(distortion, affordable))
    steps_down = [
        distortion(
            [
                candidates[candidates.index(b) - 1] if i == j else b
                for j, b in enumerate(min(affordable, key=distortion))
            ]
        )
        for i, b in enumerate(min(affordable, key=distortion))
        if b > 2
    ]
    assert distortion(bits.values()) <= max(steps_down, default=best) + 1e-9


def test_a_higher_coding_length_gets_more_bits():
    bits = waterfill({"low": 1.0, "mid": 2.0, "high": 3.0}, {"low": 1, "mid": 1, "high": 1}, range(2, 9), 12)
    assert bits == {"low": 3, "mid": 4, "high": 5}


def test_mixed_counts_pinned_layers_into_the_budget():
    net = layers(9, 30, 30, 9)
    allocation = Mixed(budget=4.0, pinned={"first": 8, "last": 8}).allocate(net)
    assert allocation.bit_width["block.0"] == allocation.bit_width["block.3"] == 8
    assert allocation.mean_bits(net) <= 4.0
    assert 4.0 - allocation.mean_bits(net) < 9 * 4 / sum(layer.weight.numel() for layer in net) * 4
    assert list(allocation.bit_width) == [layer.name for layer in net]
    assert "eps = 0.1 rms" in allocation.convention


@pytest.mark.parametrize("budget", [2.0, 8.0])
def test_the_ends_of_the_range_are_within_it(budget):
    net = layers(10, 20)
    assert Mixed(budget=budget).allocate(net).mean_bits(net) == budget


@pytest.mark.parametrize(
    ("budget", "pinned"), [(1.99, {}), (8.01, {}), (2.5, {"first": 8}), (7.99, {"last": 2, "first": 2})]
)
def test_a_budget_out_of_reach_says_the_range(budget, pinned):
    with pytest.raises(InputError, match=r"takes \d\.\d+ to \d\.\d+"):
        Mixed(budget=budget, pinned=pinned).allocate(layers(10, 10, 10))


def test_uniform_and_its_pins():
    allocation = Uniform(bit_width=3, pinned={"first": 8, "block.2": 6}).allocate(layers(5, 5, 5, 5))
    assert list(allocation.bit_width.values()) == [8, 3, 6, 3]


def test_a_pattern_pins_all_that_it_matches():
    assert list(Uniform(4, {"block.[12]": 5}).allocate(layers(5, 5, 5)).bit_width.values()) == [4, 5, 5]


def test_a_pin_that_names_no_layer_is_refused():
    with pytest.raises(InputError, match="no layer is called blok"):
        Uniform(4, {"blok.*": 8}).allocate(layers(5, 5))


@pytest.mark.parametrize("bit_width", [1, 9, 4.5, "four", True])
def test_bits_outside_two_to_eight_are_refused(bit_width):
    for make in (
        lambda: Uniform(bit_width=bit_width),
        lambda: Mixed(candidates=[4, bit_width]),
        lambda: Uniform(4, {"first": bit_width}).allocate(layers(5)),
    ):
        with pytest.raises(InputError, match="2 to 8"):
            make()
