"""Mixed precision from lossy coding length, without a combinatorial search.

The coding length of a layer is that in the network's metric (bits/network_metric.py), or by one of the conventions that
look at the weights (bits/coding_length.py). `waterfill` gives each layer its coding length above a common level;
`cluster` sorts the layers into as many clusters as there are candidates, the shortest coding lengths to the lowest, and
shifts them together to the budget. Source of the idea: arXiv 2207.03088; the rules are this project's.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

from attnround.bits.allocation import Allocation, Problem
from attnround.bits.budget import Budgeted, Slot
from attnround.bits.clusters import cluster
from attnround.bits.coding_length import RELATIVE_TO, Convention, Spectrum
from attnround.bits.distortion import fisher_information, variance
from attnround.bits.network_metric import PLACES, SCORE_BITS, network_rates, predicted_sqnr_db
from attnround.bits.waterfill import nearest, waterfill
from attnround.errors import InputError, check_number, choice, listed

RULES = ("waterfill", "cluster")
METRICS = {"logits": ("logits", "the logits"), "prediction": ("fisher", "the prediction")}  # kind of metric, in words
TINY = 1e-30  # of the information of a layer that nothing depends on


@dataclass(frozen=True, kw_only=True)
class Mixed(Budgeted):
    """rule: `waterfill` or `cluster`, which may go without a budget; relative_to: what a distortion is measured by:
    what it does to the network's `logits` or its `prediction` (KL divergence), or as `Convention` says, whose the other
    options are; num_probes: random vectors of Hutchinson's estimate, for relative_to=fisher;
    places: of `PLACES`, for logits and prediction."""

    needs_budget: ClassVar[bool] = False
    rule: str = "waterfill"
    vectors: str = "filters"
    eps: float = 0.3
    relative_to: str = "logits"
    codebook: bool = False
    input_weighted: bool = False
    folded: bool = True
    num_probes: int = 4
    places: str = "together"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relative_to not in (*METRICS, *RELATIVE_TO):
            words = ", ".join((*METRICS, *RELATIVE_TO))
            raise InputError(f"bits.relative_to={self.relative_to}: give one of {words}")
        if self.relative_to in RELATIVE_TO:
            self.convention()
            if self.places != Mixed.places:
                raise InputError(f"bits.relative_to={self.relative_to} leaves no choice of bits.places")
        elif self._of_convention():
            raise InputError(f"bits.relative_to={self.relative_to} leaves no choice of {listed(self._of_convention())}")
        check_number("bits.num_probes", self.num_probes, least=1, whole=True)
        if self.places not in PLACES:
            raise InputError(choice("bits.places", self.places, PLACES))
        if self.rule not in RULES:
            raise InputError(f"bits.rule={self.rule}: give one of {', '.join(RULES)}")
        if self.budget is None and self.rule != "cluster":
            raise InputError("bits.budget=null goes with bits.rule=cluster alone: give a budget")

    def _of_convention(self) -> list[str]:
        """Options that say how weights are looked at, where they are not as they come."""
        options = ("vectors", "eps", "codebook", "input_weighted", "folded")
        return [f"bits.{option}" for option in options if getattr(self, option) != getattr(Mixed, option)]

    def convention(self) -> Convention:
        return Convention(self.vectors, self.eps, self.relative_to, self.codebook, self.input_weighted, self.folded)

    def allocate(self, problem: Problem) -> Allocation:
        allocation = super().allocate(problem)
        if self.relative_to != "logits":
            return allocation
        return dataclasses.replace(
            allocation, predicted_sqnr_db=predicted_sqnr_db(problem, allocation.bit_width, self.places)
        )

    def lengths(self, problem: Problem) -> tuple[dict[str, float], str]:
        """Layer name -> coding length in bits a weight, and its convention in words."""
        if self.relative_to in METRICS:
            kind, output = METRICS[self.relative_to]
            words = f"1/2 log2 of the mean square change of {output} by rounding to {SCORE_BITS} bits, bits per weight"
            return network_rates(problem, kind, self.places), f"coding length in the network's metric: {words}"
        convention = self.convention()
        spectra = _spectra(convention, problem)
        units = _fisher_units(problem, self.num_probes) if self.relative_to == "fisher" else {}
        return {name: convention.rate(each, units.get(name, 1.0)) for name, each in spectra.items()}, str(convention)

    def choose(self, slots: list[Slot], limit: int, problem: Problem) -> tuple[list[int], dict[str, float], str]:
        lengths, convention = self.lengths(problem)
        score = [slot.mean(lengths) for slot in slots]
        if self.rule == "cluster":
            offers = sorted({candidate for slot in slots for candidate in slot.candidates})
            score = [float(offers[number]) for number in _spread_out(cluster(score, len(offers)), len(offers))]
        if self.budget is None:
            return [nearest(b, slot.candidates) for slot, b in zip(slots, score, strict=True)], lengths, convention
        return waterfill(slots, score, limit), lengths, convention


def _spread_out(numbers: list[int], num_clusters: int) -> list[int]:
    """Where there are fewer clusters than asked for, they keep to the middle."""
    return [number + (num_clusters - 1 - max(numbers)) // 2 for number in numbers]


def _fisher_units(problem: Problem, num_probes: int) -> dict[str, float]:
    """Layer name -> the error of a weight that moves the network's output as much in every layer.

    1 / sqrt(h) with h the mean Fisher information, such that h sigma^2 is 1 in the mean over all weights.
    """
    h = fisher_information(problem, num_probes)
    mean = sum(h[layer.name] * variance(layer.weight) * layer.weight.numel() for layer in problem.layers)
    mean /= sum(layer.weight.numel() for layer in problem.layers)
    return {name: math.sqrt(max(mean, TINY) / max(each, TINY)) for name, each in h.items()}


def _spectra(convention: Convention, problem: Problem) -> dict[str, Spectrum]:
    """Layer name -> its spectrum, decomposed once for every eps and budget."""

    def compute() -> dict[str, Spectrum]:
        covariances = problem.second_moments() if convention.input_weighted else {}
        weights = {
            layer.name: layer.weight if convention.folded or layer.unfolded is None else layer.unfolded
            for layer in problem.layers
        }
        return {name: convention.spectrum(weight, covariances.get(name)) for name, weight in weights.items()}

    return problem.remembered(("spectra", convention.vectors, convention.input_weighted, convention.folded), compute)
