"""The words of a command line as Hydra's grammar reads them: flags, and options with their values."""

import os
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hydra.errors import HydraException

from attnround.cli.options import FOLDER, choices_of, groups_of
from attnround.errors import InputError
from attnround.files import quoted

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def at_home(word: str) -> str:
    """An option's value with the home folder in place of a leading ~, which a shell leaves as it is behind name=.

    >>> at_home("~quantizer.lr"), at_home("data.root=/photos")  # neither has one there
    ('~quantizer.lr', 'data.root=/photos')
    """
    name, equals, value = word.partition("=")
    path = value.strip("'\"")
    is_one = equals and (path == "~" or path.startswith("~/")) and (path != value or "," not in value)
    return f"{name}={quoted(os.path.expanduser(path))}" if is_one else word


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options of a command line, and its flags with their values. Raises InputError for an unknown flag.

    >>> split(["quantizer=nearest,gptq", "-m", "seed=0,1", "--cfg", "job"])
    (['quantizer=nearest,gptq', 'seed=0,1'], ['-m', '--cfg', 'job'])
    """
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise InputError(message)

    parser = get_args_parser()
    parser.error = refuse  # which would print how it is used, and exit
    found, unknown = parser.parse_known_intermixed_args(list(words))
    if unknown:
        raise InputError(f"{unknown[0]}: there is no such flag: an option is given as name=value, see --help")
    left, flags = list(found.overrides), []
    for word in words:
        if word in left:
            left.remove(word)
        else:
            flags.append(word)
    return found.overrides, flags


def config_dir(flags: Sequence[str]) -> Path | None:
    """The folder that the flag --config-dir names. Raises InputError where it is not there."""
    from hydra._internal.utils import get_args_parser

    given = get_args_parser().parse_known_args(list(flags))[0].config_dir
    if given is None:
        return None
    if not Path(given).is_dir():
        raise InputError(f"--config-dir={given} is not there: give a folder laid out like conf/")
    return Path(given).resolve()


def parsed(word: str) -> "Override":
    """An option and its value. Raises InputError that says what is expected where it is none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        given = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise InputError(f"{word}: {_expected(word)}") from error
    if not given.key_or_group:
        raise InputError(f"{word}: give name=value")
    return given


def _expected(word: str) -> str:
    """What is expected in place of a word that Hydra's grammar refuses."""
    name, equals, value = word.partition("=")
    if not equals:
        homes = [f"{group}={word}" for group in groups_of("train") if word in choices_of(group)]
        return "give " + (" or ".join(homes) or "name=value; the shell wants quotes around a word with spaces")
    for pair, example in (("{}", "{first: 8}"), ("[]", "[2, 4]")):
        if value.count(pair[0]) != value.count(pair[1]):
            return f"{pair[0]} has no {pair[1]}: give all of it in quotes for the shell, such as '{name}={example}'"
    return f'give such a value in quotes, and all of it in the shell\'s: "{name}={quoted(value)}"'


def is_choice(given: "Override") -> bool:
    """Whether this chooses an option of a group, one of Hydra's own included."""
    group = given.key_or_group
    known = group.startswith("hydra/") or (FOLDER / group).is_dir()
    return known and not given.is_delete() and not isinstance(given.value(), dict)


def names(given: "Override") -> list[object]:
    """The options that a choice names: one, some together, or one a job."""
    from hydra.core.override_parser.types import ChoiceSweep, Sweep

    value = given.value()
    if isinstance(value, ChoiceSweep):
        return [getattr(each, "text", each) for each in value.list]  # without its quotes
    return [] if isinstance(value, Sweep) else value if isinstance(value, list) else [value]


def leaves(given: "Override") -> list[str]:
    """The dotted paths that this sets; a dictionary sets one with each of its keys."""

    def walk(path: str, value: object) -> Iterator[str]:
        if isinstance(value, dict) and value:
            for key, each in value.items():
                yield from walk(f"{path}.{key}", each)
        else:
            yield path

    return list(walk(given.key_or_group, given.value()))


def keys(given: "Override") -> set[str]:
    """All keys that this names: those of its path, and those of dictionaries in its value."""

    def walk(value: object) -> Iterator[str]:
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from walk(each)
        yield from value if isinstance(value, dict) else ()

    return {*given.key_or_group.split("."), *walk(given.value())}


def jobs(given: Sequence["Override"]) -> Iterator[list["Override"]]:
    """The options of each job of a sweep; those that are swept over otherwise than as a list are left out."""
    from hydra.core.override_parser.types import Glob

    ways = []
    for each in given:
        if not each.is_sweep_override():
            ways.append([each])
        elif each.is_discrete_sweep() and not isinstance(each.value(), Glob):
            name = each.get_key_element()
            ways.append([parsed(f"{name}={value}") for value in each.sweep_string_iterator()])
    return map(list, product(*ways))
