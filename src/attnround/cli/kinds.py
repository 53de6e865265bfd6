"""Whether the values of options are of the kinds that their constructors' signatures ask for: said before work starts.

Ranges of numbers are their class's own affair, which says them in its line.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from attnround.errors import InputError

BOOL, NUMBER, TEXT, LIST, DICTIONARY, NULL = "true or false", "a number", "text", "a list", "names and values", "null"
PART = "options of a part, with its _target_"
KINDS = {  # the first that fits: true is no number, and text no list
    bool: BOOL, int: NUMBER, float: NUMBER, str: TEXT, dict: DICTIONARY, Mapping: DICTIONARY, list: LIST,
    Sequence: LIST, types.NoneType: NULL,
}  # fmt: skip


def check_kinds(options: Mapping[str, object], function: Callable[..., object]) -> None:
    """Raise InputError for the first of these options whose value is none of what a parameter of that name takes.

    options: those of a task, in which a dictionary with a `_target_` has those of what is made of it.
    """
    for path, value, annotation in _asked("", options, function):
        fault = _fault(value, annotation)
        if fault:
            number = fault.startswith(TEXT) and _kind(value) == NUMBER
            quoted = f"; what looks like a number is quoted twice, as in \"{path}='{value}'\"" if number else ""
            raise InputError(f"{path}={_shown(value)}: give {fault}{quoted}")


def _asked(above: str, options: Mapping[str, object], function: Callable[..., object]) -> Iterator[tuple]:
    """The path and the value of each option, and the annotation of its parameter."""
    parameters = inspect.signature(function).parameters
    try:
        hints = typing.get_type_hints(function.__init__ if isinstance(function, type) else function)
    except (NameError, TypeError):  # of another library, whose names are there for type checkers alone
        return
    for name, value in options.items():
        path = f"{above}.{name}".lstrip(".")
        if isinstance(value, Mapping) and "_target_" in value:
            inner = {key: each for key, each in value.items() if key != "_target_"}
            yield from _asked(path, inner, _class(path, value["_target_"]))
        elif name in parameters and name in hints:
            yield path, value, hints[name]


def _class(path: str, name: str) -> Callable[..., object]:
    """What an option is made by. Raises InputError where it cannot be imported."""
    from hydra.utils import get_object

    try:
        return get_object(name)
    except ImportError as error:  # of whatever its module raises
        why = " ".join(str(error).split())
        raise InputError(
            f"{path}: {name} cannot be imported ({why}): install its package, or start where it lies ({Path.cwd()} now)"
        ) from error


def _fault(value: object, annotation: object) -> str | None:
    """What should be given instead; None where it is right, or its kind is not known here."""
    choices = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    kinds = {_kind_asked(each): each for each in choices}
    given = _kind(value)
    if None in kinds or given is None or (given == DICTIONARY and PART in kinds):
        return None
    if given not in kinds:
        if NUMBER in kinds and given != LIST and given != DICTIONARY:
            return None  # its class says the range
        return " or ".join(kind for kind in kinds if kind != NULL) + (" or null" if NULL in kinds else "")
    inner = typing.get_args(kinds[given])
    if given == LIST and inner:
        return next((f"a list of {fault}" for each in value if (fault := _fault(each, inner[0]))), None)
    return None


def _kind_asked(annotation: object) -> str | None:
    own = typing.get_origin(annotation) or annotation
    return KINDS.get(own) or (PART if isinstance(own, type) and own is not object else None)


def _is_union(annotation: object) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _kind(value: object) -> str | None:
    return next((kind for each, kind in KINDS.items() if isinstance(value, each)), None)


def _shown(value: object) -> str:
    text = {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
