"""The one interface of all rounding methods.

A `Quantizer` holds the hyper-parameters and starts a `Rounding` for each weight. A rounding gives every weight a
distribution over the levels: its mean and variance are what an objective sees, its decision is what is baked. All is in
quantization steps: u = w / scale + zero_point, and the levels are the integers qmin..qmax.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from attnround.quantization.grid import Grid

Objective = Callable[[Tensor, Tensor | None], Tensor]
"""(mean, variance or None) of the levels, both [O, *rest] -> the scalar error of the unit."""


class Rounding(nn.Module, ABC):
    """The distribution over the levels of one weight [O, *rest]. Its parameters are what is learned."""

    def anneal(self, progress: float) -> None:
        """Move the schedules to `progress`, the fraction of the steps that is done, in [0, 1)."""

    @abstractmethod
    def moments(self) -> tuple[Tensor, Tensor | None]:
        """Mean and variance of the level of every weight; None where the method's objective has no variance."""

    def penalty(self) -> Tensor | float:
        """What the method adds to the objective."""
        return 0.0

    @abstractmethod
    def decide(self) -> Tensor:
        """The levels decided for, as floats in qmin..qmax."""


class Quantizer(ABC):
    """Hyper-parameters of a rounding method, and the start of it for each weight.

    num_steps: iterations per unit, 0 where nothing is learned; lr: Adam's rate;
    data_free: the method asks nothing of the data, so that the bias is left as it is too.
    """

    num_steps: int = 0
    lr: float = 0.0
    data_free: ClassVar[bool] = False

    @abstractmethod
    def start(self, u: Tensor, grid: Grid, objective: Objective) -> Rounding:
        """The rounding of a weight u [O, *rest], in steps, whose error is `objective`."""
