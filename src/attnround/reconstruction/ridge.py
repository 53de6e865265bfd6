"""How strongly a layer is pulled to its float weights: chosen layer by layer, by what errors cost on held-out images.

What the moments of few images say of directions that these hardly show is chance, and a layer that follows it is worse
on other images. How far that goes differs by layer: the first see thousands of positions, the last a few dozen an
image, or one. Both uses of the moments have a ridge of their own, as the drift of the inputs is known far less well
than the inputs themselves. With H' and P' of the held-out images:

The target, W* = W - P (H + r I)^-1 with P = W D, is to have the smallest output error on these:

    E|W* x' - W x|^2 = tr((W* - W) H' (W* - W)^T) + 2 tr(P' (W* - W)^T) + constant

Its rounding is to have the smallest one that successive rounding under H + r I leaves. With that matrix L D L^T, L
lower triangular with a diagonal of ones, columns rounded from the last to the first leave errors e with e L = z, the
remainders of the roundings: alike in size and next to independent. So it is

    E tr(e H' e^T) = E tr(z (L^-1 H' L^-T) z^T),    which random z tell

Neither bits nor the method that rounds enters, so that the choices are the same for all of them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from attnround.calibration.moments import Moments
from attnround.reconstruction.objective import solved_pull, with_ridge

RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # fractions of the inputs' mean second moment
USUAL = 0.01  # where held-out images say nothing
NUM_ROWS = 64  # of random remainders: every ridge is judged by the same ones


def choose_ridges(learned: Moments, held_out: Moments) -> tuple[float, float]:
    """The ridges of a layer's target and of its rounding, from its moments over the images learned from and held out.

    From the smallest on, until the error grows. `USUAL` for the target where the inputs do not differ from the float
    model's, and for the rounding where there are none.
    """
    num_groups, _, n = learned.pull.shape
    draws = torch.Generator().manual_seed(0)
    remainders = torch.randint(0, 2, (num_groups, NUM_ROWS, n), generator=draws).mul_(2).sub_(1).to(learned.second)

    def error_of_target(factor: Tensor) -> float:
        offset = solved_pull(learned, factor)
        return ((offset @ held_out.second - 2 * held_out.pull) * offset).sum().item()

    def error_of_rounding(factor: Tensor) -> float:
        pivots = factor.diagonal(dim1=1, dim2=2)[:, None, :]  # the factor is L with these in its columns
        rows = torch.linalg.solve_triangular(factor, remainders * pivots, upper=False, left=False)
        return (rows @ held_out.second * rows).sum().item()

    target = _Search(error_of_target, ended=not learned.pull.any())
    rounding = _Search(error_of_rounding, ended=not learned.second.any())
    for ridge in RIDGES:
        if target.ended and rounding.ended:
            break
        factor = torch.linalg.cholesky(with_ridge(learned, ridge))
        target.look(ridge, factor)
        rounding.look(ridge, factor)
    return target.best, rounding.best


class _Search:
    """The ridge with the least error, ridges being tried from the smallest on until it grows."""

    def __init__(self, error: Callable[[Tensor], float], ended: bool):
        self.error, self.ended = error, ended
        self.best, self.lowest = USUAL, float("inf")

    def look(self, ridge: float, factor: Tensor) -> None:
        """factor: the lower Cholesky factor [G, n, n] of H with this ridge."""
        if self.ended:
            return
        error = self.error(factor)
        if error > self.lowest:
            self.ended = True
        else:
            self.best, self.lowest = ridge, error
