"""Bit widths that are set by hand, by patterns of layer names (pins)."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

from attnround.errors import InputError
from attnround.quantization.grid import BIT_WIDTHS

# `first`, `last` or a name pattern -> bits, or null where a pin is taken away; null or `none`: no pins
Pins = Mapping[str, int | None] | Literal["none"] | None


def check_bit_width(option: str, bit_width: object) -> None:
    """Raise InputError unless this is a whole number that the grid offers."""
    if isinstance(bit_width, bool) or not isinstance(bit_width, int) or bit_width not in BIT_WIDTHS:
        raise InputError(f"{option}={bit_width}: a bit width is a whole number from 2 to 8")


def check_pins(option: str, pinned: object) -> dict[str, int | None]:
    """Name pattern -> bits, or null where a pin is taken away; null or `none` in place of them all is no pins.

    Raises InputError for anything else, and for a bit width that the grid does not offer.
    """
    if pinned is None or pinned == "none":
        return {}
    if not isinstance(pinned, Mapping):
        raise InputError(f"{option}={pinned}: give name patterns and their bits, as in {option}={{first: 8}}, or none")
    for pattern, bit_width in pinned.items():
        if bit_width is not None:
            check_bit_width(f"{option}.{pattern}", bit_width)
    return dict(pinned)


def pinned_bits(option: str, pinned: Pins, names: Sequence[str], others: Sequence[str] = ()) -> dict[str, int]:
    """Name -> bits for the pinned of these layers, which come in execution order.

    pinned: `first`, `last` or a name pattern -> bits; a later pin overrides an earlier one, and null takes it away;
    others: names of what is no layer, and so neither the first nor the last.
    Raises InputError as `check_pins` does, and for a pattern that names no layer.

    >>> pinned_bits("bits.pinned", {"first": 8, "stage?.conv": 5, "last": None}, ["stem", "stage1.conv", "head"])
    {'stem': 8, 'stage1.conv': 5}
    """
    pins: dict[str, int | None] = {}
    for pattern, bit_width in check_pins(option, pinned).items():
        pins.update(dict.fromkeys(matches(option, pattern, names, others), bit_width))
    return {name: bit_width for name, bit_width in pins.items() if bit_width is not None}


def matches(option: str, pattern: object, names: Sequence[str], others: Sequence[str] = ()) -> list[str]:
    """The names that a pattern fits, or the `first` or `last` of them. Raises InputError, with near names, for none.

    A number is a name too: torch calls the modules of a Sequential so. Where it was read as one, of which 0.1 and 0.10
    are the same, it has to fit a single name.
    """
    if isinstance(pattern, float):
        alike = [name for name in (*names, *others) if _reads_as(name, pattern)]
        if len(alike) > 1:
            pattern_of_last = f"{alike[-1][:-1]}[{alike[-1][-1]}]"
            raise InputError(
                f"{option}: {pattern:g} is read as a number, and could be {' or '.join(alike)}: put a digit in "
                f"brackets, as in {pattern_of_last}"
            )
        pattern = alike[0] if alike else pattern
    pattern = str(pattern)
    places = {"first": names[:1], "last": names[-1:]}
    found = places.get(pattern, [name for name in (*names, *others) if fnmatchcase(name, pattern)])
    if not found:
        if not names:
            raise InputError("the model has no layer that can be quantized: convolutions and linear layers are")
        near = get_close_matches(pattern, [*names, *others], n=3, cutoff=0.4) or names[:3]
        raise InputError(f"{option}: no layer is called {pattern}; near that are {', '.join(near)}")
    return list(found)


def _reads_as(name: str, number: float) -> bool:
    """Whether YAML reads this name as that number."""
    return re.fullmatch(r"\d+\.\d+", name) is not None and float(name) == number
