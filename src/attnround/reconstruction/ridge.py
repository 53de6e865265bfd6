"""How strongly a layer is pulled to its float weights: chosen layer by layer, by the error on held-out images.

What the moments of few images say of directions that these hardly show is chance, and a layer that follows it is worse
on other images. How far that goes differs by layer: the first see thousands of positions, the last a few dozen an
image, or one. The ridge is the one with which the best real-valued weight has the smallest output error on the held-out
images:

    W* = W - P (H + r I)^-1, P = W D        E|W* x' - W x|^2 over held-out images, with H' and P' of these:
                                            tr((W* - W) H' (W* - W)^T) + 2 tr(P' (W* - W)^T) + constant

Neither bits nor the method that rounds enters, so that the choice is the same for all of them.
"""

from attnround.calibration.moments import Moments
from attnround.reconstruction.objective import solved_pull, with_ridge

RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # fractions of the inputs' mean second moment
USUAL = 0.01  # where held-out images say nothing


def choose_ridge(learned: Moments, held_out: Moments) -> float:
    """The ridge of a layer, from its moments over the images learned from and over those held out.

    From the smallest on, until the error grows. `USUAL` where the inputs do not differ from the float model's.
    """
    if not learned.pull.any():
        return USUAL
    best, lowest = USUAL, float("inf")
    for ridge in RIDGES:
        offset = solved_pull(learned, with_ridge(learned, ridge))
        error = ((offset @ held_out.second - 2 * held_out.pull) * offset).sum().item()
        if error > lowest:
            break
        best, lowest = ridge, error
    return best
