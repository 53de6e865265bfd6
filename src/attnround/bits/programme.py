"""The combinatorial search: an integer programme that picks a candidate for every slot."""

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from attnround.bits.budget import Slot, spend_rest

SAFETY = 1e-6  # the solver keeps to a constraint within such a part of it
TOP = 1e3  # the largest distortion as the solver sees it, which ends at an absolute gap of 1e-6


def least_distortion(slots: list[Slot], distortions: Sequence[dict[int, float]], limit: int) -> list[int]:
    """Bits for each slot within the limit so that the sum of their distortions is the least, exactly.

    distortions: candidate -> distortion, a slot. Solved by branch and bound (HiGHS, scipy.optimize.milp).
    """
    values = np.array([distortion[b] for slot, distortion in zip(slots, distortions, strict=True) for b in slot.costs])
    costs = np.array([slot.costs[b] for slot in slots for b in slot.costs], dtype=float)
    one_each = np.zeros((len(slots), len(values)))
    ends = np.cumsum([len(slot.costs) for slot in slots])
    for row, end, slot in zip(one_each, ends, slots, strict=True):
        row[end - len(slot.costs) : end] = 1
    floor = sum(min(slot.costs.values()) for slot in slots)
    unit = max(limit, 1)
    for room in (limit, max(floor, limit * (1 - SAFETY))):
        with _unprinted():
            solved = milp(
                values * (TOP / max(values.max(), 1e-300)),
                integrality=np.ones(len(values)),
                bounds=Bounds(0, 1),
                constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(costs / unit, -np.inf, room / unit)],
                options={"mip_rel_gap": 0},
            )
        picked = np.split(solved.x, ends[:-1])
        bits = [slot.candidates[int(part.argmax())] for slot, part in zip(slots, picked, strict=True)]
        if sum(slot.costs[b] for slot, b in zip(slots, bits, strict=True)) <= limit:
            return spend_rest(slots, bits, limit, distortions=distortions)  # where more bits bring nothing
    return spend_rest(slots, [slot.candidates[0] for slot in slots], limit)  # the budget is what the least takes


@contextlib.contextmanager
def _unprinted() -> Iterator[None]:
    """Within, what C writes to the standard output is lost: the HiGHS of scipy 1.17 prints lines for who debugs it."""
    try:
        kept = os.dup(1)
    except OSError:  # there is none
        yield
        return
    c, nothing = ctypes.CDLL(None), os.open(os.devnull, os.O_WRONLY)
    c.fflush(None)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        c.fflush(None)  # it is kept back where no terminal shows it
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
