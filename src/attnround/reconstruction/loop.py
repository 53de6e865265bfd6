"""The inner loop: steps of gradient descent on a rounding's parameters."""

import torch

from attnround.quantization.rounding.base import Objective, Rounding


def descend(
    rounding: Rounding, objective: Objective, optimizer: torch.optim.Optimizer, steps: range, num_steps: int
) -> float:
    """Take these of the `num_steps` steps; return the last objective (without the method's own penalty)."""
    error = float("nan")
    for step in steps:
        rounding.anneal(step / num_steps)
        loss = objective(*rounding.moments())
        error = loss.detach()
        optimizer.zero_grad()
        (loss + rounding.penalty()).backward()
        optimizer.step()
        rounding.after_step()
    return float(error)
