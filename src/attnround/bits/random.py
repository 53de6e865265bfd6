"""A random allocation at the same budget: what a measure has to beat."""

from dataclasses import dataclass

import torch

from attnround.bits.allocation import Problem
from attnround.bits.budget import Budgeted, Slot
from attnround.bits.waterfill import waterfill
from attnround.errors import LARGEST_SEED, check_number


@dataclass(frozen=True, kw_only=True)
class Random(Budgeted):
    """Every layer's share is drawn from a normal distribution; spread: its standard deviation in bits."""

    seed: int = 0
    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("bits.seed", self.seed, least=0, most=LARGEST_SEED, whole=True)
        check_number("bits.spread", self.spread, least=0)

    def choose(self, slots: list[Slot], limit: int, problem: Problem) -> tuple[list[int], dict[str, float], str]:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = (self.spread * torch.randn(len(problem.layers), generator=generator)).tolist()
        score = {layer.name: share for layer, share in zip(problem.layers, drawn, strict=True)}
        convention = f"a draw of standard deviation {self.spread:g} bits, seed {self.seed}"
        return waterfill(slots, [slot.mean(score) for slot in slots], limit), score, convention
