"""The options of conf as its YAML files state them: name, default, and the comment that says what each of them is.

    sigma: 0.5 # width of the Gaussian at the start, in quantization steps
      # (a comment goes on in lines that stand further to the right than the option)

The text is read and nothing composed, which takes milliseconds and shows interpolations as they stand.
"""

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from attnround.files import SHIPPED

FOLDER = SHIPPED / "conf"
FOLDERS = [FOLDER]  # with those of --config-dir behind it
NOT_OURS = ("hydra", "table")  # folders that are no groups of a run: Hydra's own, and grids of runs
NO_OPTIONS = ("_target_", "defaults", "hydra")  # keys of a file that say what it is made of


@dataclass(frozen=True)
class Option:
    """An option; name: dotted, below its group; default: as YAML has it; meaning: its comment, or nothing."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True)
class File:
    """A YAML file: the comment at its top, what its defaults list names (group or file -> choice), and its options."""

    head: str
    defaults: list[tuple[str, str]] = field(default_factory=list)
    options: dict[str, Option] = field(default_factory=dict)


def choices_of(group: str) -> list[str]:
    """The options of a group, in alphabetic order; none where there is no such group.

    >>> choices_of("qat")
    ['lsq', 'none']
    """
    if group in NOT_OURS:
        return []
    return sorted({each.stem for folder in FOLDERS for each in (folder / group).glob("*.yaml")})


def file_of(group: str, choice: str) -> Path:
    """The file of a choice, ours before the user's own."""
    paths = [folder / group / f"{choice}.yaml" for folder in FOLDERS]
    return next((path for path in paths if path.exists()), paths[0])


def groups_of(entry: str) -> dict[str, str]:
    """Group -> the option that an entry chooses in it: null where it chooses none, [csv] where it may be several."""
    return {group: choice for group, choice in read(FOLDER / f"{entry}.yaml").defaults if choices_of(group)}


def options_of_entry(entry: str) -> dict[str, Option]:
    """The options of an entry that are in no group."""
    return read(FOLDER / f"{entry}.yaml").options


@functools.cache
def options_of(group: str, choice: str) -> dict[str, Option]:
    """The options of a choice, with those of the files that its defaults list names.

    An experiment's are options of other groups; what it does not say of them their own files do.
    """
    file = read(file_of(group, choice))
    merged = {}
    for name, _ in file.defaults:
        source, _, place = name.partition("@")
        if source in choices_of(group):
            merged.update(_below(place, options_of(group, source).values()))
    for name, option in file.options.items():
        inherited = merged.get(name) or (_elsewhere(name, dict(chosen_by(choice))) if group == "experiment" else None)
        merged[name] = option if option.meaning or not inherited else replace(option, meaning=inherited.meaning)
    return {name: each for name, each in merged.items() if not any(other.startswith(f"{name}.") for other in merged)}


def chosen_by(experiment: str) -> list[tuple[str, str]]:
    """Group and option of what an experiment chooses."""
    defaults = read(file_of("experiment", experiment)).defaults
    return [(name.removeprefix("override /"), choice) for name, choice in defaults if name.startswith("override /")]


def description(group: str, choice: str) -> str:
    """What a choice is: the first sentence of its file."""
    first = re.split(r"\.\s|\.$|\n  ", head(group, choice), maxsplit=1)[0]
    return " ".join(first.split())


def head(group: str, choice: str) -> str:
    """The whole comment at the top of a choice's file."""
    return read(file_of(group, choice)).head


@functools.cache
def read(path: Path) -> File:
    """A file of conf."""
    import yaml

    text = path.read_text()
    top = re.match(r"(?:#.*\n)*", text)[0].splitlines()
    head = "\n".join(line[2:] for line in top if not line.startswith("# @package"))
    node = yaml.compose(text)
    pairs = node.value if node else []
    defaults = [each for key, value in pairs if key.value == "defaults" for each in _listed(value.value)]
    return File(head, defaults, {each.name: each for each in _options(text, pairs)})


def _listed(nodes: Iterable) -> Iterator[tuple[str, str]]:
    """Name and choice of each entry of a defaults list."""
    for node in nodes:
        if isinstance(node.value, str):
            yield node.value, ""
        else:
            for key, value in node.value:
                several = isinstance(value.value, list)
                yield key.value, f"[{','.join(each.value for each in value.value)}]" if several else value.value


def _options(text: str, pairs: Iterable, above: str = "") -> Iterator[Option]:
    """The options of a node; a mapping in block style is a part with options of its own, one in braces is a value."""
    for key, value in pairs:
        if key.value in NO_OPTIONS:
            continue
        name = f"{above}{key.value}"
        if isinstance(value.value, list) and not value.flow_style:
            yield from _options(text, value.value, f"{name}.")
        else:
            default = text[value.start_mark.index : value.end_mark.index]
            yield Option(name, default, _comment(text, value.end_mark.index, key.start_mark.column))


def _comment(text: str, end: int, column: int) -> str:
    """What stands behind a value that ends here, and in the lines below it that are indented more than its key."""
    line, *below = text[end:].split("\n")
    words = [line.partition("# ")[2]]
    for each in below:
        if not each.startswith(" " * (column + 1)) or not each.lstrip().startswith("# "):
            break
        words.append(each.lstrip()[2:])
    return " ".join(words).strip()


def _below(place: str, options: Iterable[Option]) -> dict[str, Option]:
    named = (replace(each, name=f"{place}.{each.name}") if place else each for each in options)
    return {each.name: each for each in named}


def _elsewhere(path: str, chosen: dict[str, str]) -> Option | None:
    """The option with this path as the run's own files have it."""
    group, _, name = path.partition(".")
    if not name:
        return options_of_entry("train").get(path)
    choices = [chosen.get(group), groups_of("train").get(group), *choices_of(group)]
    found = (options_of(group, each).get(name) for each in choices if each in choices_of(group))
    return next((each for each in found if each and each.meaning), None)
