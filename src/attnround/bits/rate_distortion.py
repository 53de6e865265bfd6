"""Bits by rate-distortion theory: b = mean + 1/2 log2(h sigma^2), the same noise of every layer in the output."""

import math
from dataclasses import dataclass

from attnround.bits.allocation import Problem
from attnround.bits.budget import Budgeted, Slot
from attnround.bits.distortion import energy, fisher_information, variance
from attnround.bits.waterfill import waterfill
from attnround.errors import InputError, check_number

SENSITIVITIES = {"fisher": "mean Fisher information", "moments": "second moment of the inputs over the output's energy"}
TINY = 1e-30  # a weight of zeros wants as few bits as there are


@dataclass(frozen=True, kw_only=True)
class RateDistortion(Budgeted):
    """h: what an error of a weight does: `fisher`, to the network's output, or `moments`, to its layer's."""

    h: str = "fisher"
    num_probes: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("bits.num_probes", self.num_probes, least=1, whole=True)
        if self.h not in SENSITIVITIES:
            raise InputError(f"bits.h={self.h}: give one of {', '.join(SENSITIVITIES)}")

    def choose(self, slots: list[Slot], limit: int, problem: Problem) -> tuple[list[int], dict[str, float], str]:
        h = fisher_information(problem, self.num_probes) if self.h == "fisher" else _of_moments(problem)
        score = {
            layer.name: 0.5 * math.log2(max(h[layer.name] * variance(layer.weight), TINY)) for layer in problem.layers
        }
        convention = f"1/2 log2(h sigma^2), h = {SENSITIVITIES[self.h]}"
        return waterfill(slots, [slot.mean(score) for slot in slots], limit), score, convention


def _of_moments(problem: Problem) -> dict[str, float]:
    def compute() -> dict[str, float]:
        moments = problem.second_moments()
        return {
            layer.name: moments[layer.name].diagonal(dim1=1, dim2=2).mean().item()
            / max(energy(layer.weight, moments[layer.name]), TINY)
            for layer in problem.layers
        }

    return problem.remembered("input second moments", compute)
