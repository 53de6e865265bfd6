"""Early stopping of a unit, by the error of what it would be baked to on images kept from learning."""

from torch import Tensor

State = dict[str, dict[str, Tensor]]  # layer -> what `layer_state` gives


class EarlyStopping:
    """Keeps the best decision that a unit came by, and says when no better one has come for `patience` looks.

    The start is no such decision. While a schedule is annealed, weights between two levels are decided badly, so that
    the first decisions are worse than the start and each is better than the one before it, until the unit has converged
    or learns its images by heart: the error then stands still or grows, and that is what is waited for.

    >>> stopping = EarlyStopping(patience=2)
    >>> [stopping.look(error, {}) for error in (5.0, 3.0, 3.1, 3.0)]
    [False, False, False, True]
    """

    def __init__(self, patience: int):
        self.patience, self.waited = patience, 0
        self.lowest, self.best = float("inf"), State()

    def look(self, error: float, state: State) -> bool:
        """Take the present decision's error and state; return whether to stop."""
        if error < self.lowest:
            self.lowest, self.best, self.waited = error, state, 0
        else:
            self.waited += 1
        return self.waited >= self.patience
