"""JSON and YAML from elsewhere, as data: before anything of it is used, each field is of the kind that is asked.

What is asked is a kind (int, float, str, bool, dict, list, type(None), a class, or one of those below), a tuple of
kinds of which one is enough, a list of one such for a list, or a dictionary of them: `key?` may be missing, `str:`
stands for each other key, and without it keys that are not named are left alone.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from attnround.errors import InputError
from attnround.files import NON_FINITE, digest_of, load_checked

DEEPEST = 50  # that JSON may be nested; ours is at 7
LARGEST = 2**63 - 1  # whole number
MERGE, FRACTION, TEXT = (f"tag:yaml.org,2002:{kind}" for kind in ("merge", "float", "str"))  # merge: of a key <<


class Number:
    """A number, finite or as text (and as `parsed` lets it pass)."""


class Count:
    """A whole number of at least 1."""


class Percent:
    """A number from 0 to 100."""


class FileName:
    """The name of a safetensors file in the record's own folder."""


class Plain:
    """A number, a text that refers to nothing else, true, false, null, or a list of such."""


WORDS = {
    Number: "a number", Count: "a whole number of at least 1", Percent: "a number from 0 to 100",
    FileName: "the name of a .safetensors file in this folder", int: "a whole number", str: "text",
    Plain: "a plain value: a number, text without ${, true, false, null, or a list of such", dict: "a dictionary",
    list: "a list", type(None): "null", bool: "true or false", float: "a finite number",
}  # fmt: skip


def parsed(text: str | bytes, bare: bool = False) -> Any:
    """What a text of JSON says. bare: also Infinity and NaN, which JSON has not and Python's reader lets pass.

    Raises ValueError where it is not JSON, where readers would differ on what it says, or nothing could be written of
    it: a key twice, a number beyond all floats, half a character, a depth without an end.

    >>> parsed('{"bits": 4}')
    {'bits': 4}
    """
    try:
        content = json.loads(
            text, object_pairs_hook=_once, parse_float=_finite, parse_constant=float if bare else _refuse
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [content]
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in _inner(each)]
    if level:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    json.dumps(content, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return content


def parsed_yaml(text: str) -> Any:
    """What a text of YAML says. Raises ValueError, in one line, where it is not YAML or a key is there twice.

    >>> parsed_yaml("bits: 4")
    {'bits': 4}
    """
    try:
        return yaml.load(text, _EachKeyOnce)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class _EachKeyOnce(yaml.SafeLoader):
    """Of a key that is there twice, PyYAML's own keeps the last without a word, and takes 0.10 for 0.1."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        own = [key for key, _ in node.value if key.tag != MERGE]  # what another's are merged into may overrule them
        for key in own:
            if key.tag == FRACTION:
                key.tag = TEXT
        keys = [self.construct_object(key, deep=True) for key in own]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise ValueError(f"{_shown(twice[0])} is there twice, in line {node.start_mark.line + 1} or below")
        return super().construct_mapping(node, deep)


def _inner(value: object) -> Sequence[object]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{_shown(text)} is no number that can be computed with")
    return number


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{_shown(next(key for key in keys if keys.count(key) > 1))} is there twice")
    return found


def read_typed(path: Path, wanted: object, what: str, give: str, bare: bool = False) -> Any:
    """The content of a JSON file that is as wanted.

    Of one that has a `digest`, as `sealed_json` writes it, that is checked and not given.
    what: the file should be; give: what to do where it is not. Raises InputError that names the file and the field.
    """
    try:
        content = parsed(path.read_bytes(), bare)
        if isinstance(content, dict) and "digest" in content and content.pop("digest") != digest_of(content):
            raise ValueError("it was damaged or edited since it was written")
        check(content, wanted)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise InputError(f"{path} is no {what.split()[0]} that can be read ({why}): {give}") from error
    except ValueError as error:
        raise InputError(f"{path} is no {what}: {error}; {give}") from error
    return content


def load_typed(path: Path, wanted: object, what: str, give: str) -> Any:
    """The content of a file of torch's whose checksums hold and which is as wanted, as `read_typed`."""
    try:
        content = load_checked(path)
    except Exception as error:  # a damaged archive raises what its damage happens to hit
        raise InputError(f"{path} cannot be read ({type(error).__name__}): it is damaged; {give}") from error
    try:
        check(content, wanted)
    except ValueError as error:
        raise InputError(f"{path} is not a {what} of this version ({error}): {give}") from error
    return content


def check(value: Any, wanted: object, field: str = "") -> None:
    """Raise ValueError that names the first field which is not as wanted, and what it should be."""
    if isinstance(wanted, dict):
        _check_kind(value, dict, field)
        named = {key.removesuffix("?") for key in wanted if key is not str}
        for key, inner in wanted.items():
            if key is str:
                for name, each in value.items():
                    if name in named:
                        continue
                    check(each, inner, f"{field}.{name if str(name).isprintable() else _shown(name)}")
            elif key.removesuffix("?") in value:
                name = key.removesuffix("?")
                check(value[name], inner, f"{field}.{name}")
            elif not key.endswith("?"):
                raise ValueError(f"{f'{field}.{key}'.lstrip('.')} is missing")
    elif isinstance(wanted, list):
        _check_kind(value, list, field)
        for place, each in enumerate(value):
            check(each, wanted[0], f"{field}[{place}]")
    else:
        _check_kind(value, wanted, field)


def _check_kind(value: object, wanted: object, field: str) -> None:
    kinds = wanted if isinstance(wanted, tuple) else (wanted,)
    if not any(_is(value, kind) for kind in kinds):
        asked = " or ".join(WORDS.get(kind, f"a {kind.__name__}") for kind in kinds)
        raise ValueError(f"{field.lstrip('.') or 'all of it'} is {_shown(value)}, {asked} is asked")


def _shown(value: object) -> str:
    """A number, text, true, false or null as JSON, on a line, and its beginning where that is long; else its kind."""
    if not isinstance(value, str | int | float | None):
        return f"a {type(value).__name__}"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is(value: Any, kind: Any) -> bool:
    if kind is Number:
        return isinstance(value, float) or _is(value, int) or (isinstance(value, str) and value in NON_FINITE)
    if kind is Count:
        return _is(value, int) and value >= 1
    if kind is Percent:
        return _is(value, float) and 0 <= value <= 100
    if kind is FileName:
        return isinstance(value, str) and value == Path(value).name and value.endswith(".safetensors")
    if kind is Plain:
        if isinstance(value, list):
            return all(_is(each, Plain) and not isinstance(each, list) for each in value)
        refers = isinstance(value, str) and ("${" in value or value == "???")  # OmegaConf's
        return value is None or (isinstance(value, bool | int | float | str) and not refers)
    if kind is float:
        return _is(value, int) or (isinstance(value, float) and math.isfinite(value))
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
    return isinstance(value, kind)
