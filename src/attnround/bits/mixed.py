"""Mixed precision from lossy coding length, without a combinatorial search.

`waterfill` gives each layer its coding length above a common level; `cluster` sorts the layers into as many clusters as
there are candidates, the shortest coding lengths to the lowest, and shifts them together to the budget.
Source of the idea: arXiv 2207.03088; the rules are this project's.
"""

import math
from dataclasses import dataclass

from attnround.bits.allocation import Problem
from attnround.bits.budget import Budgeted, Slot
from attnround.bits.clusters import cluster
from attnround.bits.coding_length import Convention, Spectrum
from attnround.bits.distortion import fisher_information, variance
from attnround.bits.waterfill import nearest, waterfill
from attnround.errors import InputError, check_number

RULES = ("waterfill", "cluster")
TINY = 1e-30  # of the information of a layer that nothing depends on


@dataclass(frozen=True, kw_only=True)
class Mixed(Budgeted):
    """rule: `waterfill` or `cluster`, which may go without a budget; num_probes: random vectors of Hutchinson's
    estimate, for relative_to=fisher; the other options are those of `Convention`."""

    rule: str = "waterfill"
    vectors: str = "filters"
    eps: float = 0.3
    relative_to: str = "fisher"
    codebook: bool = False
    input_weighted: bool = False
    folded: bool = True
    num_probes: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.convention()
        check_number("bits.num_probes", self.num_probes, least=1, whole=True)
        if self.rule not in RULES:
            raise InputError(f"bits.rule={self.rule}: give one of {', '.join(RULES)}")
        if self.budget is None and self.rule != "cluster":
            raise InputError("bits.budget=null goes with bits.rule=cluster alone: give a budget")

    def convention(self) -> Convention:
        return Convention(self.vectors, self.eps, self.relative_to, self.codebook, self.input_weighted, self.folded)

    def choose(self, slots: list[Slot], limit: int, problem: Problem) -> tuple[list[int], dict[str, float], str]:
        convention = self.convention()
        spectra = _spectra(convention, problem)
        units = _fisher_units(problem, self.num_probes) if self.relative_to == "fisher" else {}
        lengths = {name: convention.rate(each, units.get(name, 1.0)) for name, each in spectra.items()}
        score = [slot.mean(lengths) for slot in slots]
        if self.rule == "cluster":
            offers = sorted({candidate for slot in slots for candidate in slot.candidates})
            score = [float(offers[number]) for number in _spread_out(cluster(score, len(offers)), len(offers))]
        if self.budget is None:
            return [nearest(b, slot.candidates) for slot, b in zip(slots, score, strict=True)], lengths, str(convention)
        return waterfill(slots, score, limit), lengths, str(convention)


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
    return {name: math.sqrt(mean / max(each, TINY)) for name, each in h.items()}


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
