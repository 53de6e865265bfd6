"""The combinatorial search that coding length avoids: measured distortions, and an integer programme over them."""

import math
from abc import abstractmethod
from dataclasses import dataclass

from attnround.bits.allocation import Problem
from attnround.bits.budget import Budgeted, Slot
from attnround.bits.distortion import Table, fisher_errors, network_errors, output_errors
from attnround.bits.programme import least_distortion
from attnround.errors import InputError, check_number

TINY = 1e-30  # of the distortion of a weight of zeros
MEASURES = {
    "layer": "relative error of the layer's output, from its inputs' second moments",
    "network": "relative error of the logits with one layer quantized",
}


class Searched(Budgeted):
    """An allocator that minimises a sum of distortions exactly."""

    @abstractmethod
    def distortions(self, problem: Problem) -> tuple[Table, str]:
        """Layer name -> bit width -> distortion, and in words what that is."""

    def choose(self, slots: list[Slot], limit: int, problem: Problem) -> tuple[list[int], dict[str, float], str]:
        table, convention = self.distortions(problem)
        sums = [{b: sum(table[layer.name][b] for layer in slot.layers) for b in slot.costs} for slot in slots]
        score = {
            layer.name: 0.5 * math.log2(max(table[layer.name][4], TINY) / layer.weight.numel())
            for layer in problem.layers
        }
        return least_distortion(slots, sums, limit), score, f"{convention}; score: 1/2 log2 of it a weight, at 4 bits"


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Searched):
    """measure: `layer`, the error of a layer's own output, or `network`, that of the logits."""

    measure: str = "layer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measure not in MEASURES:
            raise InputError(f"bits.measure={self.measure}: give one of {', '.join(MEASURES)}")

    def distortions(self, problem: Problem) -> tuple[Table, str]:
        return (output_errors if self.measure == "layer" else network_errors)(problem), MEASURES[self.measure]


@dataclass(frozen=True, kw_only=True)
class Fisher(Searched):
    """Trace of the Hessian times squared weight error, as in HAWQ-V2 (arXiv 1911.03852) and HAWQ-V3 (arXiv 2011.10680).

    num_probes: random vectors of Hutchinson's estimate.
    """

    num_probes: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("bits.num_probes", self.num_probes, least=1, whole=True)

    def distortions(self, problem: Problem) -> tuple[Table, str]:
        convention = f"mean Fisher information ({self.num_probes} probes) times squared weight error"
        return fisher_errors(problem, self.num_probes), convention
