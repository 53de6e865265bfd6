"""What is wrong with the words of a command line, in one line that says what may be given instead.

Hydra's own errors speak of structs, of search paths and of appending with +. So where it raises one, the words are
looked at again: each choice against the files of its group, each option against the config that the choices make.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attnround.cli.composed import composed
from attnround.cli.options import Option, choices_of, groups_of, options_of, options_of_entry
from attnround.cli.parsed import is_choice, jobs, keys, leaves, names, parsed
from attnround.errors import InputError, choice, listed, near
from attnround.files import quoted

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

Choices = Mapping[str, str | None]  # group -> the option that is chosen in it
OF_WORDS = (ConfigCompositionException, MissingConfigException, OverrideParseException, OmegaConfBaseException)


def check(overrides: Iterable[str]) -> None:
    """Raise InputError for a class given in place of an option's own, and for what Hydra meets with a traceback.

    A run's identity does not count classes, so that another one would pass for the same run. Words without `=` are
    left alone: an entry may have some of its own, such as a folder.
    """
    for word in overrides:
        if "=" not in word and not word.startswith("~"):
            continue
        given = parsed(word)
        if "_target_" in keys(given):
            raise InputError(f"{word}: the class of an option stands in its file and cannot be given here")
        for name in names(given) if is_choice(given) else ():
            if not isinstance(name, str):
                group = given.key_or_group
                raise InputError(choice(group, "null" if name is None else name, choices_of(group)))


def check_given(cfg: DictConfig, choices: Choices, entry: str) -> None:
    """Raise InputError where an option that has no default was not given."""
    lacking = _lacking(cfg, choices, entry)
    if lacking:
        raise InputError(lacking)


def explained(error: Exception, overrides: Sequence[str], entry: str = "train", several: bool = False) -> str:
    """The error that these words led to, in a line. several: they are a sweep's, whose jobs are looked at in turn."""
    if not isinstance(error, OF_WORDS):
        return in_a_line(error)
    try:
        given = [parsed(word) for word in overrides]
    except InputError as wrong:
        return str(wrong)
    faults = (_fault(job, entry) for job in (jobs(given) if several else [given]))
    return next(filter(None, faults), in_a_line(error))


def explained_in_job(error: Exception, cfg: DictConfig, job: DictConfig) -> str:
    """The error of a job, in a line. job: Hydra's own part of its config."""
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, TypeError):
        for given in (parsed(word) for word in job.overrides.task if word.startswith("+")):
            *above, name = given.key_or_group.split(".")
            node = OmegaConf.select(cfg, ".".join(above)) if above else None
            if isinstance(node, DictConfig) and "_target_" in node and name not in _parameters(node["_target_"]):
                others = {key: each for key, each in node.items_ex(resolve=False) if key != name}
                return _lacks(given, [*above, name], len(above), others, job.runtime.choices)
    return in_a_line(error)


def _parameters(target: str) -> list[str]:
    """What a class takes."""
    import inspect

    from hydra.utils import get_object

    return list(inspect.signature(get_object(target)).parameters)


def in_a_line(error: BaseException) -> str:
    """What a user can mend, without line breaks."""
    if not isinstance(error, InputError) and isinstance(error.__cause__, InputError | OmegaConfBaseException):
        error = error.__cause__
    if isinstance(error, MissingConfigException) and error.options:
        return choice(*str(error.missing_cfg_file).rsplit("/", 1), error.options)
    if isinstance(error, OmegaConfBaseException):
        path = f"{error.full_key}: " if error.full_key else ""
        return path + str(error.msg or error).splitlines()[0]
    return " ".join(str(error).split())


def _fault(given: Sequence["Override"], entry: str) -> str | None:
    """What is wrong with the words of one job; None where nothing is."""
    try:
        config = composed([each.input_line for each in given], entry)
    except (HydraException, OmegaConfBaseException):
        return _misfit(given, entry)
    return _lacking(config, config.hydra.runtime.choices, entry)


def _misfit(given: Sequence["Override"], entry: str) -> str | None:
    """The first word that does not fit those before it, choices coming first."""
    choosing, setting = [each for each in given if is_choice(each)], [each for each in given if not is_choice(each)]
    choices: dict[str, str | None] = dict(groups_of(entry))
    words, config = [], composed([], entry)
    for each in [*choosing, *setting]:
        words.append(each.input_line)
        wrong = _wrong_choice(each, choices, entry) if each in choosing else None
        if wrong:
            return wrong
        try:
            config = composed(words, entry)
        except (HydraException, OmegaConfBaseException) as error:
            wrong = _wrong_option(each, OmegaConf.to_container(config), choices, entry) if each in setting else None
            said = in_a_line(error)
            return wrong or (said if said.startswith(each.key_or_group) else f"{each.input_line}: {said}")
        choices |= {group: name for group, name in config.hydra.runtime.choices.items() if name}
    return None


def _wrong_choice(given: "Override", choices: Choices, entry: str) -> str | None:
    """What is wrong with a word that chooses an option of a group."""
    group, word, known = given.key_or_group, given.input_line, choices_of(given.key_or_group)
    if group.startswith("hydra"):
        return None
    if group not in choices:
        return _unknown(given, choices, entry)
    if given.is_sweep_override():
        return _sweeps(given, choices[group].startswith("["))
    if given.is_add() or given.package:
        return f"{word}: {group} is chosen already: give {group}={word.partition('=')[2]}"
    for name in names(given):
        if name not in known:
            return f"{group}={name}: give one of {', '.join(dict.fromkeys([*near(name, known), *known]))}"
    return None


def _wrong_option(given: "Override", tree: Mapping[str, object], choices: Choices, entry: str) -> str | None:
    """What is wrong with a word that sets an option. tree: the config without it."""
    word, key = given.input_line, given.key_or_group.split(".")
    if given.is_sweep_override():
        return _sweeps(given)
    for path in leaves(given):
        steps = path.split(".")
        depth, node, above = _reached(tree, steps)
        if depth == len(steps) or isinstance(node, list) or (depth >= len(key) and not isinstance(node, Mapping)):
            continue
        if depth == 0:
            return _unknown(given, choices, entry)
        free = isinstance(above, Mapping) and "_target_" in above and (node is None or isinstance(node, Mapping))
        if free and "_target_" not in (node or {}) and not _having(steps, depth, choices):
            return _new(given, steps, depth, list(node or {}))
        return _lacks(given, steps, depth, node, choices)
    return f"{word}: it is there already: give {word.lstrip('+')}" if given.is_add() else None


def _reached(tree: Mapping[str, object], steps: Sequence[str]) -> tuple[int, object, object]:
    """How many of these steps lead somewhere in a tree, the node where they end, and the one above it."""
    node, above = tree, None
    for depth, step in enumerate(steps):
        if not isinstance(node, Mapping) or step not in node:
            return depth, node, above
        node, above = node[step], node
    return len(steps), node, above


def _unknown(given: "Override", choices: Choices, entry: str) -> str:
    """An entry has no group or option of this name: where it has one that may be meant."""
    word, key = given.input_line, given.key_or_group
    (name, _, inner), value = key.partition("."), word.partition("=")[2]
    last = key.rpartition(".")[2]
    groups = groups_of(entry)
    known = [*groups, *options_of_entry(entry)]
    ways = [f"{path}={value}" for group in groups for path in _called(key, group, choices.get(group))]
    ways = ways or [
        f"experiment={each} {word}" for each in choices_of("experiment") if key in options_of("experiment", each)
    ]
    alike = [each for each in near(name, known) if not inner or inner in _options(each, choices.get(each))]
    ways = ways or [_instead(word, name, each) for each in alike]
    ways = ways or [f"{path}={value}" for each in groups for path in _called(last, each, choices.get(each))]
    for group in groups if not ways else ():
        homes = [(each, path) for each in choices_of(group) for path in _called(key, group, each)]
        ways += [f"{group}={each} {path}={value}" for each, path in homes[:1]]
    return f"{word}: {entry} has no option {name}: give " + (" or ".join(ways[:3]) or f"one of {', '.join(known)}")


def _called(name: str, group: str, chosen: str | None) -> list[str]:
    """The paths of those options of a choice that are called so."""
    return [f"{group}.{path}" for path in _options(group, chosen) if path.rpartition(".")[2] == name]


def _instead(word: str, name: str, other: str) -> str:
    """A word with another name in it; the value only where that can have it."""
    value = word.partition("=")[2]
    fits = not choices_of(other) or "." in word.partition("=")[0] or value in choices_of(other)
    return word.replace(name, other, 1) if fits else f"{other}=..."


def _lacks(given: "Override", steps: Sequence[str], depth: int, node: object, choices: Choices) -> str:
    """What is chosen has no such option: what it has that may be meant, and which other choice has it."""
    word, above, step, group = given.input_line, ".".join(steps[:depth]), steps[depth], steps[0]
    if node is not None and not isinstance(node, Mapping):
        return f"{word}: {above} is a single value: give {above}=..."
    chosen, having = choices.get(group), _having(steps, depth, choices)
    own = [each for each in node or {} if each != "_target_"]
    close = [f"{above}.{each}" for each in near(step, own)] or _called(step, group, chosen)
    close = close or [f"{above}.{each}" for each in own if _mentions(each, step, group, [chosen, *having])][:3]
    others = f" ({listed(having[1:])} too)" if having[1:] else ""
    ways = [*([f"{group}={having[0]} {word.lstrip('+')}{others}"] if having else []), *close]
    label = f"{group}={chosen}" if depth == 1 and chosen in choices_of(group) else above
    rest = f"it has {', '.join(own)}" if own else "it has no options"
    return f"{word}: {label} has no {step}: " + (f"give {' or '.join(ways)}" if ways else rest)


def _having(steps: Sequence[str], depth: int, choices: Choices) -> list[str]:
    """The other choices of an option's group that have it, or something below it, the default of the group first."""
    group, name = steps[0], ".".join(steps[1 : depth + 1])
    usual = groups_of("train").get(group)
    others = sorted((each for each in choices_of(group) if each != choices.get(group)), key=lambda each: each != usual)
    return [each for each in others if any(f"{path}.".startswith(f"{name}.") for path in options_of(group, each))]


def _mentions(name: str, other: str, group: str, chosen: Iterable[str | None]) -> bool:
    """Whether what one of these choices says of an option speaks of another one."""
    meanings = [_options(group, each)[name].meaning for each in chosen if name in _options(group, each)]
    return any(re.search(rf"\b{re.escape(other)}\b", each) for each in meanings)


def _new(given: "Override", steps: Sequence[str], depth: int, known: Sequence[str]) -> str:
    """A dictionary whose keys are the user's own, such as names of layers, has no such key yet."""
    word, above, name = given.input_line, ".".join(steps[:depth]), ".".join(steps[depth:])
    way = f"+{word}" if isinstance(given.value(), dict) else f"+{above}={{{name}: {word.partition('=')[2]}}}"
    ways = [*(f"{above}.{each}" for each in near(steps[depth], known)), f"'{way}'"]
    return f"{word}: {above} has no {name} yet: give {' or '.join(ways)}"


def _sweeps(given: "Override", listed: bool = True) -> str:
    """Several values were given without the flag that makes a run of each. listed: the option takes a list."""
    name, _, values = given.input_line.partition("=")
    a_list = f", or '{name}=[{values}]' for a list" if listed and "(" not in values else ""
    if "/" in values:
        a_list = f', or "{name}={quoted(values)}" for a path with commas'
    return f"{given.input_line}: give -m for a run each{a_list}"


def _lacking(config: DictConfig, choices: Choices, entry: str) -> str | None:
    """Which options without a default were not given, and what they are; None where all were."""
    lines = []
    for path in _missing({key: each for key, each in OmegaConf.to_container(config).items() if key != "hydra"}):
        group, _, name = path.partition(".")
        chosen = choices.get(group)
        option = _options(group, chosen).get(name) or options_of_entry(entry).get(path)
        meaning = f": {option.meaning}" if option else ""
        lines.append(f"{f'{group}={chosen}' if chosen else entry} needs {path}=...{meaning}")
    return "; ".join(lines) or None


def _missing(tree: Mapping[str, object], above: str = "") -> Iterator[str]:
    """The paths below a node where a value is to be given."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _missing(value, f"{above}{key}.")
        elif value == "???":
            yield f"{above}{key}"


def _options(group: str, chosen: str | None) -> dict[str, Option]:
    """The options of a choice; none where it is not one file."""
    return options_of(group, chosen) if chosen in choices_of(group) else {}
