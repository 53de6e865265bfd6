"""The same bits for every layer but the pinned ones."""

from dataclasses import dataclass
from typing import ClassVar

from attnround.bits.allocation import Problem
from attnround.bits.budget import Budgeted, Slot, spend_rest
from attnround.bits.waterfill import nearest
from attnround.errors import InputError
from attnround.quantization.pins import check_bit_width


@dataclass(frozen=True, kw_only=True)
class Uniform(Budgeted):
    """bit_width everywhere, or the nearest candidate; with a budget, the one width that fits it, and what is left in
    steps of a candidate to the first layers that it is enough for. Raises InputError for a bit_width beside a budget.
    """

    bit_width: int = 4
    budget: float | None = None
    least_last: ClassVar[int] = 0
    needs_budget: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bit_width("bits.bit_width", self.bit_width)
        if self.budget is not None and self.bit_width != Uniform.bit_width:
            raise InputError(f"bits.bit_width={self.bit_width}: bits.budget says which width it is: leave one out")

    def choose(self, slots: list[Slot], limit: int, problem: Problem) -> tuple[list[int], dict[str, float], str]:
        if self.budget is None:
            return [nearest(self.bit_width, slot.candidates) for slot in slots], {}, ""
        widths = sorted({bits for slot in slots for bits in slot.candidates})
        chosen = [slot.candidates[0] for slot in slots]
        for width in widths:
            wider = [nearest(width, slot.candidates) for slot in slots]
            if sum(slot.costs[bits] for slot, bits in zip(slots, wider, strict=True)) <= limit:
                chosen = wider
        return spend_rest(slots, chosen, limit, [widths[-1]] * len(slots)), {}, ""
