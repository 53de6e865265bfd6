"""Bit widths that are set by hand: which layers a pin names."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from attnround.errors import InputError
from attnround.quantization.grid import BIT_WIDTHS


def check_bit_width(option: str, bit_width: object) -> None:
    """Raise InputError unless this is a whole number that the grid offers."""
    if isinstance(bit_width, bool) or not isinstance(bit_width, int) or bit_width not in BIT_WIDTHS:
        raise InputError(f"{option}={bit_width}: a bit width is a whole number from 2 to 8")


def pinned_bits(option: str, pinned: dict[str, int], names: Sequence[str]) -> dict[str, int]:
    """Name -> bits for the pinned of these layers, which come in execution order.

    pinned: `first`, `last` or a name pattern -> bits; a later pin goes before an earlier one.
    Raises InputError for bits that are not on offer and for a pattern that names no layer.

    >>> pinned_bits("bits.pinned", {"first": 8, "stage?.conv": 5}, ["stem", "stage1.conv", "head"])
    {'stem': 8, 'stage1.conv': 5}
    """
    pins = {}
    for pattern, bit_width in pinned.items():
        check_bit_width(f"{option}.{pattern}", bit_width)
        pins.update(dict.fromkeys(matches(option, pattern, names), bit_width))
    return pins


def matches(option: str, pattern: str, names: Sequence[str]) -> list[str]:
    """The names that a pattern fits, or the `first` or `last` of them. Raises InputError, with near names, for none."""
    places = {"first": names[:1], "last": names[-1:]}
    found = places.get(pattern, [name for name in names if fnmatchcase(name, pattern)])
    if not found:
        near = get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:3]
        raise InputError(f"{option}: no layer is called {pattern}; near that are {', '.join(near)}")
    return list(found)
