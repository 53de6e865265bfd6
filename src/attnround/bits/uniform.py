"""The same bits for every layer but the pinned ones."""

from dataclasses import dataclass
from typing import ClassVar

from attnround.bits.allocation import Problem
from attnround.bits.budget import Budgeted, Slot
from attnround.bits.waterfill import nearest, waterfill
from attnround.quantization.pins import check_bit_width


@dataclass(frozen=True, kw_only=True)
class Uniform(Budgeted):
    """bit_width everywhere, or the nearest candidate; with a budget, the one width that fits it, and what is left in
    steps of a candidate to the first layers that it is enough for."""

    bit_width: int = 4
    budget: float | None = None
    least_last: ClassVar[int] = 0
    needs_budget: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bit_width("bits.bit_width", self.bit_width)

    def choose(self, slots: list[Slot], limit: int, problem: Problem) -> tuple[list[int], dict[str, float], str]:
        if self.budget is None:
            return [nearest(self.bit_width, slot.candidates) for slot in slots], {}, ""
        return waterfill(slots, [0.0] * len(slots), limit), {}, ""
