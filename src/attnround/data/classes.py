"""Which of a model's outputs a folder of images stands for: its name says, its place among the others, or a map."""

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset

from attnround.data.pixels import EXTENSIONS
from attnround.errors import InputError, listed, reason
from attnround.typed import parsed

WORDNET_ID = re.compile(r"n\d{8}")
NUMBER = re.compile(r"[-+]?\d+(\.\d*)?")
MAP = "data.class_map=<a CSV or JSON file: folder -> index of the output>"
Labels = dict[str, tuple[int, ...]]
Indices = list[int] | list[tuple[int, ...]]


def natural(name: str) -> list[int | str]:
    """timm's key: numbers as such, capitals as small letters."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]


ORDERS: dict[str, Callable[[str], Any]] = {
    "torchvision": str,
    "timm": natural,
}  # their ImageFolders number folders as sorted by these keys


def class_places(names: list[str], num_classes: int, folder: Path, order: str | None = None) -> dict[str, int]:
    """Class folder name -> index of the model's output.

    WordNet ids of ImageNet and numbers name outputs, so that a part of the classes is enough. Other names, and ids and
    numbers that name no output, stand for the outputs in their order where they are as many. order: torchvision's or
    timm's, asked for where the two differ.

    Raises InputError naming folders that stand for no output, for the same one, or for one or another.
    """
    if order is not None and order not in ORDERS:
        raise InputError(f"data.class_order={order}: give {' or '.join(ORDERS)}, whichever the model was trained with")
    if not names:
        raise InputError(f"{folder} has no folder of a class: give val/<class>/<images>")
    as_many = len(names) == num_classes
    if order is not None:
        if not as_many:
            raise InputError(
                f"data.class_order={order}: {folder} has {len(names)} class folders and the model {num_classes} "
                f"outputs, so that their order says nothing: give {MAP}"
            )
        return _in_order(names, ORDERS[order], folder)
    named = _named(names, num_classes)
    lost = [name for name in names if name not in named]
    if not lost:
        counts = Counter(named.values())
        twice = sorted(name for name in names if counts[named[name]] > 1)
        if twice:
            raise InputError(f"{folder}: {listed(twice)} are the same number: rename one, or give {MAP}")
        if as_many and all(name.isdecimal() for name in names):
            _ask_where_orders_differ(names, folder)
        return named
    if not as_many or any(WORDNET_ID.fullmatch(name) for name in named):
        raise InputError(f"{folder}: of the model's {num_classes} classes, {_lost(lost, names, num_classes)}")
    _ask_where_orders_differ(names, folder)
    return _in_order(names, str, folder)


def _named(names: list[str], num_classes: int) -> dict[str, int]:
    """The folders whose names say which output they stand for."""
    subset = infer_imagenet_subset({"num_classes": num_classes})
    synsets = {name: i for i, name in enumerate(ImageNetInfo(subset).label_names())} if subset else {}
    if any(name in synsets for name in names):
        return {name: synsets[name] for name in names if name in synsets}
    return {name: int(name) for name in names if name.isdecimal() and int(name) < num_classes}


def _in_order(names: list[str], key: Callable[[str], Any], folder: Path) -> dict[str, int]:
    ordered = sorted(names, key=key)
    tied = [name for name, after in pairwise(ordered) if key(name) == key(after)]
    if tied:
        raise InputError(
            f"{folder}: {listed(tied)} differs from another folder in capitals or zeros alone, which timm does not "
            f"order: give data.class_order=torchvision if that is where the model is from, or {MAP}"
        )
    return {name: place for place, name in enumerate(ordered)}


def _ask_where_orders_differ(names: list[str], folder: Path) -> None:
    one, other = (list(_in_order(names, key, folder)) for key in ORDERS.values())
    place = next((i for i in range(len(names)) if one[i] != other[i]), None)
    if place is not None:
        raise InputError(
            f"{folder}: output {place} is the folder {one[place]} in torchvision's order and {other[place]} in timm's: "
            f"give data.class_order=torchvision or data.class_order=timm, as the model was trained, or {MAP}"
        )


def _lost(lost: list[str], names: list[str], num_classes: int) -> str:
    numbers = [name for name in lost if name.isdecimal()]
    given = f"{listed(lost)} map to none"
    if len(numbers) == len(lost) and all(name.isdecimal() for name in names):
        counted = " (counted from 1?)" if min(map(int, names)) == 1 and max(map(int, names)) == num_classes else ""
        return f"{given}: numbers are indices from 0 to {num_classes - 1}{counted}; rename them, or give {MAP}"
    return (
        f"{given}: name class folders by WordNet id (n01440764) for an ImageNet model, by class index (0 to "
        f"{num_classes - 1}), give exactly {num_classes} folders, or {MAP}"
    )


def read_class_map(path: str, num_classes: int, option: str = "data.class_map") -> Labels:
    """Folder, or file below the folder of images -> the outputs that are right for it. option: which named the path.

    A CSV has the name and then one index or several a line, with commas, semicolons or tabs between, a header or none;
    JSON is an object of an index or a list of them. Names are as `plain` has them. Raises InputError that names what is
    not so.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        entries = _plain(parsed(text).items() if text.lstrip().startswith("{") else _rows(text))
    except (OSError, ValueError) as error:
        raise InputError(f"{option}={path} cannot be read ({reason(error)}): give a CSV or JSON file") from error
    places = {name: tuple(given) if isinstance(given, list) else (given,) for name, given in entries.items()}
    for name, given in places.items():
        if not given or not all(type(each) is int and 0 <= each < num_classes for each in given):
            said = entries[name]
            raise InputError(
                f"{option}={path}: {name} -> {said}: give an index from 0 to {num_classes - 1}, or a list of them"
            )
    if not places:
        raise InputError(f"{option}={path} is empty: give a line a folder, or a line a file")
    return places


def plain(name: str) -> str:
    """A file's or folder's name in one form, whichever program wrote it.

    >>> plain("./cats/"), plain("cats\\\\a.jpg"), plain("cafe\u0301") == plain("caf\u00e9")
    ('cats', 'cats/a.jpg', True)
    """
    return str(PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")))


def _plain(entries: Iterable[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, given in entries:
        if plain(name) in found:
            raise ValueError(f"{name} is there twice")
        found[plain(name)] = given
    return found


def _rows(text: str) -> Iterator[tuple[str, object]]:
    """The name and the indices of each line of a CSV; what is no whole number stays text, for the error to name."""
    first = text.lstrip().partition("\n")[0]
    between = max(",;\t", key=first.count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=between)]
    rows = [row for row in rows if any(row)]
    for name, *cells in rows[1:] if rows and _is_header(*rows[0]) else rows:
        if not name:
            raise ValueError(f"a line has no name, but {', '.join(cells)}")
        yield name, [int(cell) if cell.isdecimal() else cell for cell in cells if cell]


def _is_header(name: str, *cells: str) -> bool:
    """Whether a first line names columns: what has a number is data, and so is what names an image."""
    return not name.lower().endswith(EXTENSIONS) and not any(NUMBER.fullmatch(cell) for cell in cells)


def mapped(files: Sequence[str], places: Mapping[str, tuple[int, ...]], given: str, root: Path) -> Indices:
    """The outputs that are right for each file, by its own line or that of the innermost folder that has one.

    One an image, or where an image has several a tuple of as many for all, filled with -1. given: the option and its
    path, for the error. Raises InputError naming files for which there is none.
    """
    found: list[tuple[int, ...]] = []
    missing = []
    for file in files:
        own = PurePosixPath(plain(file))
        name = next((str(each) for each in (own, *own.parents) if str(each) in places), None)
        if name is None:
            missing.append(file)
        else:
            found.append(places[name])
    if missing:
        raise InputError(f"{given} has no line for {listed(missing)} of {root}, nor for their folder")
    most = max(map(len, found), default=1)
    return [each[0] for each in found] if most == 1 else [each + (-1,) * (most - len(each)) for each in found]
