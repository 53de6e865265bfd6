"""Files damaged in every way that a disk, a transfer or an editor damages them, the same by their seed."""

import copy
import io
import json
import operator
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from attnround.errors import InputError

Damage = tuple[str, Callable[[], bytes], bool]  # what, its bytes, whether a reader may take the value for one meant
NESTED = json.loads("[" * 40 + "]" * 40)
OTHERS = [
    "text",
    "",
    -1,
    0,
    1.5,
    10**18,
    10**30,
    1e300,
    True,
    None,
    [],
    {},
    [1, [2]],
    {"a": None},
    "NaN",
    "\ud800",
    NESTED,
]


@dataclass(frozen=True)
class Kind:
    """A kind of file, and what reads it.

    good: such a file; read: path -> what comes of it, to be compared by ==; parts: bytes -> its JSON; joined: the good
    file with other JSON in it, whose checksums are right; sealed: whether it has a checksum; free: pattern of places in
    its JSON -> other kinds that a value may have there, or `gone`.
    """

    name: str
    good: bytes
    read: Callable[[Path], object]
    suffix: str = ".json"
    parts: Callable[[bytes], object] | None = None
    joined: Callable[[bytes, object], bytes] | None = None
    sealed: bool = True
    free: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What came of a damaged file. fault: None where it was refused in a line, or read with nothing changed."""

    damage: str
    fault: str | None


def verdicts(kind: Kind, folder: Path, seed: int, count: int) -> Iterator[Verdict]:
    """Read `count` damaged files of a kind, and say what came of each."""
    path, draw = folder / f"file{kind.suffix}", random.Random(f"{kind.name} {seed}")
    path.write_bytes(kind.good)
    good = kind.read(path)
    every = [*_bytes(kind.good, draw), *(_retyped(kind) if kind.parts else ())]
    for name, make, may_change in draw.sample(every, min(count, len(every))):
        path.write_bytes(make())
        yield Verdict(name, _fault(kind, path, good, may_change))


def _fault(kind: Kind, path: Path, good: object, may_change: bool) -> str | None:
    try:
        found = kind.read(path)
    except InputError as error:
        return "its line has a line break" if "\n" in str(error) else None
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    if may_change or found == good or (not kind.sealed and _alike(kind, path.read_bytes())):
        return None
    return "it was taken as it is"


def _alike(kind: Kind, raw: bytes) -> bool:
    """Whether a file without a checksum says what a good one might say: values of the same kinds under its names."""
    if kind.parts is None:
        return True
    one, other = kind.parts(kind.good), kind.parts(raw)
    return all(_kinds(_at(one, place)) & _kinds(_at(other, place)) for place in set(paths(one)) & set(paths(other)))


def _bytes(raw: bytes, draw: random.Random) -> Iterator[Damage]:
    """Damage to the bytes."""
    yield "empty", lambda: b"", False
    yield "twice", lambda: raw + raw, False
    yield "more at its end", lambda: raw + b"\0\0\0", False
    yield "a NUL before it", lambda: b"\0" + raw, False
    for name, other in _strangers():
        yield f"{name} in its place", partial(bytes, other), False
    for _ in range(40):
        yield "cut off", partial(_piece, raw, 0, draw.randrange(len(raw))), False
    for _ in range(10):
        yield "a page of zeros", partial(_replaced, raw, draw.randrange(len(raw)), 512, b"\0" * 512), False
        yield "a piece missing", partial(_replaced, raw, draw.randrange(len(raw)), draw.randrange(1, 64), b""), False
        start, length = draw.randrange(len(raw)), draw.randrange(1, 64)
        yield "a piece twice", partial(_replaced, raw, start, 0, raw[start : start + length]), False
    for _ in range(60):
        yield "a bit flipped", partial(_flipped, raw, draw.randrange(len(raw)), draw.randrange(8)), False


def _piece(raw: bytes, start: int, end: int) -> bytes:
    return raw[start:end]


def _replaced(raw: bytes, start: int, length: int, other: bytes) -> bytes:
    return raw[:start] + other + raw[start + length :]


def _flipped(raw: bytes, place: int, bit: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]


def _strangers() -> Iterator[tuple[str, bytes]]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b")
    yield "a zip", archive.getvalue()
    yield "a pickle", pickle.dumps({"a": 1})
    yield "a picture", b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    yield "a page of HTML", b"<!doctype html><title>404</title>\n"
    yield "JSON of a list", b"[1, 2]\n"
    yield "JSON of null", b"null"
    yield "an endless depth", b"[" * 100_000
    yield "half a character", b'{"a": "\xff"}'
    yield "a huge number", b'{"a": ' + b"9" * 5000 + b"}"
    yield "Infinity", b'{"a": Infinity}'
    yield "a safetensors file", (2).to_bytes(8, "little") + b"{}"


def _retyped(kind: Kind) -> Iterator[Damage]:
    """Each value of the file's JSON as one of another kind, or gone, or under another name; checksums are right."""
    content = kind.parts(kind.good)
    for path in paths(content):
        where = ".".join(map(str, path))
        free = {each for pattern, some in kind.free.items() if fnmatch(where, pattern) for each in some}
        allowed = _kinds(_at(content, path)) | free
        for value in OTHERS:
            put, may_change = partial(_put, value=value), bool(_kinds(value) & allowed)
            yield f"{where} = {str(value)[:20]!a}", partial(_changed, kind, path, put), may_change
        yield f"{where} gone", partial(_changed, kind, path, operator.delitem), "gone" in free
        if isinstance(path[-1], str):
            yield f"{where} renamed", partial(_changed, kind, path, _rename), "gone" in free


def _put(node: Any, key: Any, value: object) -> None:
    node[key] = value


def _rename(node: Any, key: str) -> None:
    node[f"{key}x"] = node.pop(key)


def _changed(kind: Kind, path: tuple, change: Callable[[Any, Any], None]) -> bytes:
    content = copy.deepcopy(kind.parts(kind.good))
    change(_at(content, path[:-1]), path[-1])
    return kind.joined(kind.good, content) if kind.joined else json.dumps(content).encode()


def paths(value: object, above: tuple = ()) -> Iterator[tuple]:
    """Every place in JSON; of a list the first and the last."""
    if isinstance(value, dict):
        inner = list(value.items())
    else:
        inner = list(dict.fromkeys((0, len(value) - 1))) if isinstance(value, list) and value else []
        inner = [(i, value[i]) for i in inner]
    for key, each in inner:
        yield (*above, key)
        yield from paths(each, (*above, key))


def _at(content: Any, path: tuple) -> Any:
    for key in path:
        content = content[key]
    return content


def _kinds(value: object) -> set[str]:
    """Of two values of one kind either may have been meant. NaN as text is a number too."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"number"}
    return {type(value).__name__} | ({"number"} if value in ("NaN", "Infinity") else set())
