"""The one interface of all rounding methods.

A `RoundingMethod` holds the hyper-parameters and starts a `Rounding` for each weight. A rounding gives every weight a
distribution over the levels: its mean and variance are what an objective sees, its decision is what is baked. All is in
quantization steps: u = w / scale + zero_point, and the levels are the integers qmin..qmax.
"""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from attnround.quantization.grid import Grid
from attnround.quantization.shapes import Float


class Objective(Protocol):
    """The error of a unit's output in percent of its float output's energy, a scalar differentiable in the levels.

    Called with mean and variance (or None) of the levels. unit: what a squared output error of 1, summed over channels
    and averaged over images and positions, adds to the value.
    """

    @property
    def unit(self) -> float: ...

    def __call__(
        self, mean: Float[Tensor, " O *rest"], variance: Float[Tensor, " O *rest"] | None = None
    ) -> Float[Tensor, ""]: ...


@runtime_checkable
class Quadratic(Objective, Protocol):
    """An objective that is a quadratic form of the errors e = q - centre, for G groups of rows:

    sum over rows i of gain_i e_i second e_i^T, or where the rows are coupled, sum over i, k of coupling_ik e_i second
    e_k^T, whose diagonal is gain.

    centre: the best real-valued levels.
    """

    second: Float[Tensor, "G n n"]
    centre: Float[Tensor, "G o n"]
    gain: Float[Tensor, "G o 1"]
    coupling: Float[Tensor, "G o o"] | None


def slope(objective: Quadratic, error: Float[Tensor, "G o n"]) -> Float[Tensor, "G o n"]:
    """Half the gradient of the quadratic form in its errors."""
    product = error @ objective.second
    return product.mul_(objective.gain) if objective.coupling is None else objective.coupling @ product


def as_quadratic(objective: Objective) -> Quadratic:
    """The objective, for a method that needs a quadratic one. Raises TypeError where it is none."""
    if not isinstance(objective, Quadratic):
        raise TypeError(f"a {type(objective).__name__} is no quadratic objective, which this rounding method needs")
    return objective


class Rounding(nn.Module, ABC):
    """The distribution over the levels of one weight [O, *rest]. Its parameters are what is learned."""

    def anneal(self, progress: float) -> None:
        """Move the schedules to `progress`, the fraction of the steps that is done, in [0, 1)."""

    @abstractmethod
    def moments(self) -> tuple[Float[Tensor, " O *rest"], Float[Tensor, " O *rest"] | None]:
        """Mean and variance of the level of every weight; None where the method's objective has no variance."""

    def penalty(self) -> Float[Tensor, ""] | float:
        """What the method adds to the objective."""
        return 0.0

    def backward(self, objective: Objective) -> Float[Tensor, ""]:
        """Set the parameters' gradients, of the objective and the penalty; return the objective."""
        for parameter in self.parameters():
            parameter.grad = None
        loss = objective(*self.moments())
        (loss + self.penalty()).backward()
        return loss.detach()

    def step(self, objective: Objective, optimizer: torch.optim.Optimizer) -> Float[Tensor, ""]:
        """Take one of the optimizer's steps on the objective; return the objective (without the penalty)."""
        loss = self.backward(objective)
        optimizer.step()
        self.after_step()
        return loss

    def after_step(self) -> None:
        """Called after each of the optimizer's steps."""

    def gain(self) -> Float[Tensor, " O"] | None:
        """The factor on the scale that the method learned: w = scale * gain * (levels - zero_point).

        The moments of such a method stay in the original steps: gain * (levels - zero_point) + zero_point.
        """
        return None

    @abstractmethod
    def decide(self) -> Float[Tensor, " O *rest"]:
        """The levels decided for, as floats in qmin..qmax."""


class Decided(Rounding):
    """A point mass on levels that are decided already."""

    levels: Tensor

    def __init__(self, levels: Float[Tensor, " O *rest"]):
        super().__init__()
        self.register_buffer("levels", levels)

    def moments(self) -> tuple[Float[Tensor, " O *rest"], None]:
        return self.levels, None

    def decide(self) -> Float[Tensor, " O *rest"]:
        return self.levels


class RoundingMethod(ABC):
    """Hyper-parameters of a rounding method, which starts a rounding for each weight.

    num_steps: iterations per unit, 0 where nothing is learned; lr: Adam's rate;
    data_free: the method needs no data: scales and biases stay as they are, and `start` gets None as the objective;
    layer_only: the method needs a `Quadratic` objective, which only the layer objective is.
    """

    num_steps: int = 0
    lr: float = 0.0

    @property
    def data_free(self) -> bool:
        return False

    @property
    def layer_only(self) -> bool:
        return False

    @abstractmethod
    def start(
        self,
        u: Float[Tensor, " O *rest"],
        grid: Grid,
        objective: Objective,
        generator: Generator,
        zero_point: Float[Tensor, " O *ones"] | float = 0.0,
    ) -> Rounding:
        """The rounding of a weight u, in steps, whose error is `objective`.

        generator: on u's device, seeded by the unit, for methods that draw; zero_point: the level of a weight of zero,
        0 on a symmetric grid, else [O, 1, ..., 1].
        """


def round_through(x: Float[Tensor, "*shape"], grid: Grid) -> Float[Tensor, "*shape"]:
    """clip(round(x)), with gradient 1 where nothing is clipped and 0 elsewhere.

    The clamp is half a step wider than the levels, because versions of torch differ in its gradient at its very bounds.
    """
    inside = x.clamp(grid.qmin - 0.5, grid.qmax + 0.5)
    return inside + (x.round().clamp(grid.qmin, grid.qmax) - inside).detach()
