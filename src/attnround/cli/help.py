"""What `--help` prints: what an entry does, the groups and their choices, and each option with its default and meaning.

`--help` alone shows the entry, `--help quantizer=gptq` the options of that choice, and `--help quantizer` those of all
choices of the group. All of it stands in conf and is only read there.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from attnround.cli.options import (
    Option,
    choices_of,
    chosen_by,
    description,
    groups_of,
    head,
    options_of,
    options_of_entry,
)
from attnround.errors import InputError, choice, near

EXAMPLES = {"quantizer": "quantizer.lr=0.1", "data": "data.limit=1000", "paths": "paths.root=/data"}
FOOTER = """
An option of a group is given as group.option=value, such as {example}.
`{program} --cfg=job <options>` prints the config that these make, and runs nothing."""


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether these words of a command line ask for help."""
    return "--help" in words or "-h" in words


def help_page(entry: str, about: str, words: Sequence[str]) -> str:
    """What to print for these words. about: what the entry does, and examples. Raises InputError for unknown words.

    `sweep` runs what `train` does, and has its groups.
    """
    source = "train" if entry == "sweep" else entry
    asked = [each for each in words if not _is_passed_over(each, source)]
    if asked:
        return "\n\n".join(part for word in asked for part in _parts(source, word))
    if entry == "sweep":
        return about.strip()
    options = "Options, with their defaults:\n" + _table("", options_of_entry(entry).values())
    return "\n\n".join([about.strip(), _groups(entry), options]) + "\n" + _footer(entry)


def _is_passed_over(word: str, entry: str) -> bool:
    """Whether a word is an option that is in no group or in a choice, or a file that the entry takes."""
    name, equals, _ = word.partition("=")
    return name in options_of_entry(entry) or ("." in name if equals else Path(word).exists())


def _parts(entry: str, word: str) -> list[str]:
    """The page of each choice that a word such as quantizer=gptq names."""
    group, equals, given = word.partition("=")
    groups = list(groups_of(entry))
    if group not in groups:
        raise InputError(f"{word}: there is no group {group}: give {' or '.join(near(group, groups) or groups)}")
    known = choices_of(group)
    names = given.strip("[]").split(",") if equals else known
    for name in names:
        if name not in known:
            raise InputError(choice(group, name, known))
    return [_choice(group, name) for name in names]


def _choice(group: str, name: str) -> str:
    """A choice: what its file says of it, and its options."""
    lines = [f"{group}={name}", head(group, name)]
    place = "" if group == "experiment" else f"{group}."
    if group == "experiment":
        lines += ["", "chooses " + " ".join(f"{part}={each}" for part, each in chosen_by(name)) + " and sets"]
    options = options_of(group, name)
    return "\n".join([*lines, "", _table(place, options.values()) if options else "  It has no options."])


def _groups(entry: str) -> str:
    """The groups of an entry and their choices, a line each."""
    defaults, lines = groups_of(entry), []
    wide = max(len(each) for group in defaults for each in choices_of(group))
    for group, chosen in defaults.items():
        for place, name in enumerate(choices_of(group)):
            mark = "*" if name in chosen.strip("[]").split(",") else " "
            title = group if place == 0 else ""
            lines.append(f"  {title:<15}{mark} {name:<{wide}}  {description(group, name)}")
    explained = "Groups and their choices (* is the default); `--help group=choice` says what a choice can be told:"
    return "\n".join([explained, *lines])


def _table(place: str, options: Iterable[Option]) -> str:
    """A line an option: name, default, meaning."""
    rows = [(f"{place}{each.name}", each.default or "null", each.meaning) for each in options]
    names, defaults = (max(len(row[i]) for row in rows) for i in (0, 1))
    return "\n".join(f"  {name:<{names}}  {default:<{defaults}}  {meaning}" for name, default, meaning in rows)


def _footer(entry: str) -> str:
    example = next(each for group, each in EXAMPLES.items() if group in groups_of(entry))
    program = f"python src/{entry}.py" if Path(sys.argv[0]).suffix else f"attnround {entry}"
    return FOOTER.format(program=program, example=example)
