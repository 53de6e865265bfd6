"""Automatic mixed precision: the smallest budget whose quantized model still agrees with the float one."""

import dataclasses
import logging
from dataclasses import dataclass

from attnround.bits.allocation import Allocation, Allocator, Problem
from attnround.bits.budget import UNITS, Budgeted
from attnround.errors import InputError, check_number

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Auto(Allocator):
    """Bisects the budget of another allocator; agreement is taken to grow with the budget.

    max_drop: of the agreement with FP32 on the calibration images, from 100 %, no labels asked; num_trials: budgets
    that are tried below the highest, each a whole quantization of the model; allocator: whose budget is found.
    """

    allocator: Budgeted
    max_drop: float = 0.5
    num_trials: int = 6

    def __post_init__(self) -> None:
        check_number("bits.max_drop", self.max_drop, least=0, most=100)
        check_number("bits.num_trials", self.num_trials, least=1, whole=True)

    def allocate(self, problem: Problem) -> Allocation:
        """Raises InputError where even the highest budget drops by more."""
        trials: list[dict[str, float]] = []

        def attempt(budget: float) -> Allocation | None:
            """The allocation for a budget, if it agrees well enough."""
            allocation = dataclasses.replace(self.allocator, budget=budget).allocate(problem)
            agreement = problem.agreement(allocation)
            trials.append({"budget": budget, "mean_bits": allocation.mean_bits(problem.layers), "agreement": agreement})
            log.info("%-12s auto: %.3g %s agree to %.2f %%", "bits", budget, UNITS[self.allocator.unit], agreement)
            return allocation if agreement >= 100 - self.max_drop else None

        low, high = self.allocator.reach(problem)
        best = attempt(high)
        if best is None:
            raise InputError(
                f"bits.max_drop={self.max_drop} is out of reach: at the most on offer, {high:.4g} "
                f"{UNITS[self.allocator.unit]}, agreement drops by {100 - trials[-1]['agreement']:.2f}"
            )
        for _ in range(self.num_trials):
            budget = (low + high) / 2
            found = attempt(budget)
            low, high, best = (budget, high, best) if found is None else (low, budget, found)
        return dataclasses.replace(best, trials=trials)
