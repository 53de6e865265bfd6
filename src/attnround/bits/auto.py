"""Automatic mixed precision: the smallest budget whose quantized model still agrees with the float one."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from attnround.bits.allocation import Problem
from attnround.bits.budget import UNITS, Budgeted
from attnround.errors import InputError, check_number

ROUNDING = 1e-9  # of a percentage


@dataclass(frozen=True, kw_only=True)
class Auto:
    """Bisects the budget of an allocator; agreement is taken to grow with the budget.

    max_drop: of the agreement with FP32 on the calibration images, from 100 %, no labels asked; num_trials: budgets
    that are tried below the highest, each a whole quantization of the model; allocator: whose budget is found.
    """

    allocator: Budgeted
    max_drop: float = 0.5
    num_trials: int = 6

    def __post_init__(self) -> None:
        check_number("bits.max_drop", self.max_drop, least=0, most=100)
        check_number("bits.num_trials", self.num_trials, least=1, whole=True)
        if not isinstance(self.allocator, Budgeted):
            raise InputError(f"bits.allocator={self.allocator}: give an allocator with a budget, such as Mixed()")
        given, usual = self.allocator.budget, type(self.allocator).budget
        if given not in (None, usual):
            raise InputError(f"bits.allocator.budget={given}: bits=auto finds the budget: leave it out")
        self.at(4.0)  # raises where the allocator has an option that none with a budget may have

    @property
    def unit(self) -> str:
        """Of a budget, as a person reads it."""
        return UNITS[self.allocator.unit]

    def at(self, budget: float) -> Budgeted:
        """The allocator with this budget."""
        return dataclasses.replace(self.allocator, budget=budget)

    def accepts(self, agreement: float) -> bool:
        """Whether a quantized model agrees well enough. agreement: in percent."""
        return agreement + self.max_drop >= 100 - ROUNDING

    def smallest(self, agreement: Callable[[float], float], problem: Problem) -> float:
        """The smallest budget found that agrees well enough. agreement: of a budget, in percent.

        Raises InputError where even the highest budget drops by more.
        """
        low, high = self.allocator.reach(problem)
        first = agreement(high)
        if not self.accepts(first):
            raise InputError(
                f"bits.max_drop={self.max_drop} is out of reach: at the most on offer, {high:.4g} {self.unit}, "
                f"agreement drops by {100 - first:.2f}"
            )
        for _ in range(self.num_trials if low < high else 0):
            budget = (low + high) / 2
            low, high = (low, budget) if self.accepts(agreement(budget)) else (budget, high)
        return high
