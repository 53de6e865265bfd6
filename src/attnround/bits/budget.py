"""A budget: what a bit of each layer costs, what is on offer for it, and how much may be spent.

Costs are exact integers (bits of storage, or multiply-accumulates times bits), so that a budget is never exceeded by a
rounding error.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from attnround.bits.allocation import FLOAT_BITS, Allocation, Allocator, Layer, Problem
from attnround.errors import InputError, check_number, listed
from attnround.quantization.pins import Pins, check_bit_width, check_pins, matches
from attnround.quantization.storage import layer_bytes

NOTABLE = 0.2  # the share of the budget from which on what pins take is said
ULP = 1e-15  # of a budget: `_amount` of a whole number of units, given as a budget, is that number again
SLACK = 1e-6  # of a bit: 3.1 times the number of weights may come out below the whole number it is
UNITS = {"mean_bits": "mean bits of a weight", "mib": "MiB", "gbops": "GBOPs"}
COUNTS = {
    "mean_bits": "all quantized layers, pinned ones too",
    "mib": "the file but for its header: levels, scales, zero points, biases, and as float32 what stays so",
    "gbops": "multiply-accumulates of all quantized layers for an image, times weight bits, times input bits",
}


@dataclass(frozen=True)
class Slot:
    """What gets one width: a layer, or a group of layers.

    costs: candidate -> what it costs in whole units; candidates ascend.
    """

    layers: tuple[Layer, ...]
    costs: dict[int, int]

    @property
    def candidates(self) -> list[int]:
        return list(self.costs)

    @property
    def num_weights(self) -> int:
        return sum(layer.weight.numel() for layer in self.layers)

    def mean(self, values: dict[str, float]) -> float:
        """Mean of a value a layer over the slot's weights."""
        return sum(values[layer.name] * layer.weight.numel() for layer in self.layers) / self.num_weights

    def upgrade(self, bits: int) -> tuple[int, int] | None:
        """The next candidate and what it costs more; None at the top."""
        place = self.candidates.index(bits) + 1
        if place == len(self.costs):
            return None
        return self.candidates[place], self.costs[self.candidates[place]] - self.costs[bits]


@dataclass(frozen=True, kw_only=True)
class Budgeted(Allocator):
    """An allocator with a budget, in `unit`: never exceeded, and spent until no upgrade is affordable.

    budget: mean bits of a weight, MiB of the stored model, or 10^9 bit operations for an image; candidates: bit widths
    on offer, or name pattern -> bit widths, where a later pattern goes before an earlier one; pinned: `first`, `last`
    or a name pattern -> its bits; groups: lists of name patterns whose layers share a width, or `sums` for the layers
    that feed one residual sum. A pin on one layer of a group is a pin on all of them.

    least_last: bits that the last layer has at least, where the budget allows and candidates are one list: its error is
    the logits' own, which no later layer makes up for, and at 2 bits it is far above what the scores take it for.
    """

    least_last: ClassVar[int] = 3
    needs_budget: ClassVar[bool] = True

    budget: float | None = 4.0
    unit: str = "mean_bits"
    candidates: Sequence[int] | dict[str, Sequence[int]] = (2, 3, 4, 5, 6, 7, 8)
    pinned: Pins = field(default_factory=dict)
    groups: Sequence[Sequence[str]] | str = ()

    def __post_init__(self) -> None:
        for candidates in self._candidates().values():
            if not isinstance(candidates, Sequence) or isinstance(candidates, str):
                raise InputError(f"bits.candidates={candidates}: give a list of bit widths from 2 to 8")
            if not candidates:
                raise InputError("bits.candidates=[]: name at least one bit width from 2 to 8")
            for candidate in candidates:
                check_bit_width("bits.candidates", candidate)
        if self.budget is not None or self.needs_budget:
            check_number("bits.budget", self.budget, above=0)
        check_pins("bits.pinned", self.pinned)
        if self.unit not in UNITS:
            raise InputError(f"bits.unit={self.unit}: give one of {', '.join(UNITS)}")
        if isinstance(self.groups, str) and self.groups != "sums":
            raise InputError(f"bits.groups={self.groups}: give lists of name patterns, or sums")

    @abstractmethod
    def choose(self, slots: list[Slot], limit: int, problem: Problem) -> tuple[list[int], dict[str, float], str]:
        """Bits for each slot, within the limit; the score of each layer, and its convention in words."""

    def allocate(self, problem: Problem) -> Allocation:
        """Raises InputError where the budget is out of reach, with the range within it, and where groups and pins
        contradict each other."""
        slots, fixed = self.slots(problem)
        low, _ = self._reach(slots, fixed, problem)
        if self.budget is not None and self.budget < low:
            slots, fixed = self.slots(problem, least_last=0)
        whole = self._limit(slots, fixed, problem)
        limit = whole - fixed
        chosen, score, convention = self.choose(slots, limit, problem) if slots else ([], {}, "")
        widths = {layer.name: bits for slot, bits in zip(slots, chosen, strict=True) for layer in slot.layers}
        widths |= self._grouped_pins(problem)
        ordered = {layer.name: widths[layer.name] for layer in problem.layers}
        units = sum(cost(self.unit, layer, ordered[layer.name], problem) for layer in problem.layers)
        asked = "" if self.budget is None else f" of {self.budget:g}"
        spent = f"{self._amount(units, problem):.4g}{asked} {UNITS[self.unit]} spent, counted: {COUNTS[self.unit]}"
        if fixed > NOTABLE * whole:
            spent += (
                f"; bits.pinned takes {100 * fixed / whole:.0f} % of it ({listed(sorted(self.pins(problem.layers)))})"
            )
        return Allocation(ordered, score, convention, spent)

    def slots(self, problem: Problem, least_last: int | None = None) -> tuple[list[Slot], int]:
        """The layers that are not pinned, group by group, and what the pinned ones cost.

        least_last: bits that the last layer has at least, by default the allocator's own.
        """
        layers = {layer.name: layer for layer in problem.layers}
        pins = self._grouped_pins(problem)
        offers = self._offers(list(layers), self.least_last if least_last is None else least_last)
        slots, taken = [], set(pins)
        grouped = {name: group for group in self._groups(problem) for name in group}
        for name in layers:
            if name not in taken:
                group = grouped.get(name, [name])
                taken |= set(group)
                on_offer = sorted(set.intersection(*(set(offers[each]) for each in group)))
                if not on_offer:
                    raise InputError(f"bits.groups: {listed(group)} share a width, and bits.candidates none of theirs")
                members = tuple(layers[each] for each in group)
                costs = {b: sum(cost(self.unit, each, b, problem) for each in members) for b in on_offer}
                slots.append(Slot(members, costs))
        return slots, sum(cost(self.unit, layers[name], bits, problem) for name, bits in pins.items())

    def reach(self, problem: Problem) -> tuple[float, float]:
        """The lowest and the highest budget, in its unit."""
        return self._reach(*self.slots(problem), problem)

    def _reach(self, slots: list[Slot], fixed: int, problem: Problem) -> tuple[float, float]:
        low, high = (fixed + sum(slot.costs[slot.candidates[end]] for slot in slots) for end in (0, -1))
        return self._amount(low, problem), self._amount(high, problem)

    def _candidates(self) -> dict[str, Sequence[int]]:
        return self.candidates if isinstance(self.candidates, dict) else {"*": self.candidates}

    def _offers(self, names: list[str], least_last: int) -> dict[str, Sequence[int]]:
        offers: dict[str, Sequence[int]] = {}
        for pattern, candidates in self._candidates().items():
            offers |= dict.fromkeys(matches("bits.candidates", pattern, names), candidates)
        without = [name for name in names if name not in offers]
        if without:
            raise InputError(f"bits.candidates names none for {listed(without)}: give some for '*'")
        if not isinstance(self.candidates, dict):
            last = names[-1]
            offers[last] = [bits for bits in offers[last] if bits >= least_last] or offers[last]
        return offers

    def _groups(self, problem: Problem) -> list[list[str]]:
        """Disjoint groups of at least one layer, each in execution order."""
        names = [layer.name for layer in problem.layers]
        if self.groups == "sums":
            return [list(group) for group in problem.sums()]
        groups = []
        for patterns in self.groups:
            if isinstance(patterns, str):
                raise InputError(f"bits.groups: {patterns} is a name: give a list of lists of name patterns")
            members = {name for pattern in patterns for name in matches("bits.groups", pattern, names)}
            groups.append([name for name in names if name in members])
        seen: set[str] = set()
        for group in groups:
            if seen & set(group):
                raise InputError(f"bits.groups: {min(seen & set(group))} is in two groups: make them one")
            seen |= set(group)
        return groups

    def _grouped_pins(self, problem: Problem) -> dict[str, int]:
        """The pins, carried over to all layers of a pinned layer's group."""
        pins = self.pins(problem.layers)
        for group in self._groups(problem):
            pinned = {name: pins[name] for name in group if name in pins}
            if len(set(pinned.values())) > 1:
                widths = ", ".join(f"{name} at {bits}" for name, bits in pinned.items())
                raise InputError(f"bits.groups and bits.pinned contradict each other: {widths} share a width")
            pins |= dict.fromkeys(group, next(iter(pinned.values()))) if pinned else {}
        return pins

    def _limit(self, slots: list[Slot], fixed: int, problem: Problem) -> int:
        """The budget in whole units of cost. Raises InputError where it is out of reach."""
        low, high = self._reach(slots, fixed, problem)
        if self.budget is not None and not low <= self.budget <= high:
            low, _ = self._reach(*self.slots(problem, least_last=0), problem)
            raise InputError(
                f"bits.budget={self.budget} {UNITS[self.unit]} is out of reach: with these bits.candidates and "
                f"bits.pinned this model takes {_inwards(low, math.ceil)} to {_inwards(high, math.floor)}"
            )
        budget = high if self.budget is None else self.budget
        if self.unit == "mib":
            return math.floor(budget * 8 * 2**20 + SLACK) - problem.other_bits
        each = 10**9 if self.unit == "gbops" else sum(layer.weight.numel() for layer in problem.layers)
        return math.floor(budget * each * (1 + ULP) + SLACK)

    def _amount(self, units: int, problem: Problem) -> float:
        """Units of cost in the budget's own."""
        if self.unit == "mib":
            return (units + problem.other_bits) / 8 / 2**20
        return units / (10**9 if self.unit == "gbops" else sum(layer.weight.numel() for layer in problem.layers))


def _inwards(bound: float, to: Callable[[float], int]) -> float:
    """Of a range, to four digits or to thousandths, so that it can be given."""
    digits = max(3, 3 - math.floor(math.log10(bound))) if bound > 0 else 3
    return round(to(bound * 10**digits) / 10**digits, digits)


def cost(unit: str, layer: Layer, bits: int, problem: Problem) -> int:
    """What a layer costs at a width: bits of its weights, of all it stores, or bit operations for an image."""
    if unit == "gbops":
        return layer.macs * bits * layer.input_bits
    num_levels = layer.weight.numel()
    if unit == "mean_bits":
        return num_levels * bits
    quantized_input = layer.input_bits != FLOAT_BITS
    kinds = layer_bytes(num_levels, len(layer.weight), bits, problem.observer.symmetric, quantized_input)
    return 8 * sum(kinds.values())


def spend_rest(
    slots: list[Slot],
    bits: list[int],
    limit: int,
    want: Sequence[float] | None = None,
    distortions: Sequence[Mapping[int, float]] | None = None,
) -> list[int]:
    """Give the next candidate to the slot that is furthest below what it wants, as long as one is affordable.

    want: bits, fractional, a slot; by default the cheapest upgrade goes first; distortions: candidate -> distortion, a
    slot, which no upgrade is to raise.
    """
    bits = list(bits)
    spare = limit - sum(slot.costs[b] for slot, b in zip(slots, bits, strict=True))
    while True:
        upgrades = {i: slot.upgrade(b) for i, (slot, b) in enumerate(zip(slots, bits, strict=True))}
        affordable = {i: up for i, up in upgrades.items() if up is not None and up[1] <= spare}
        if distortions:
            affordable = {i: up for i, up in affordable.items() if distortions[i][up[0]] <= distortions[i][bits[i]]}
        if not affordable:
            return bits
        i = max(affordable, key=lambda i: -affordable[i][1] if want is None else want[i] - bits[i])
        bits[i], more = affordable[i]
        spare -= more
