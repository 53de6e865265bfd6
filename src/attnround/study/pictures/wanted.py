"""A picture as a table's YAML asks for it, and what can be asked for.

pictures:
  - {file: sigma, kind: lines, x: sigma, x_name: "sigma, steps", y: sqnr_db, line: estimator, panel: model}
  - {file: pareto, kind: lines, x: mib, y: top1, line: allocator, panel: model}  # its points are those of all budgets
  - {file: images, kind: lines, x: images, y: top1, line: method, panel: model, scale: log2}
  - {file: drop, kind: bars, x: weights, y: drop, line: method, only: {method: [AdaRound, GPTQ]}, panel: model}
  - {file: time, kind: scatter, x: seconds, y: top1, line: method, panel: model, scale: log10}
"""

import math
import re
from collections.abc import Collection
from dataclasses import MISSING, dataclass, field, fields

from attnround.errors import InputError
from attnround.study.tables.columns import COLUMNS
from attnround.study.tables.grid import Grid

CHOICES = {"kind": ("lines", "bars", "scatter"), "scale": ("linear", "log2", "log10")}


@dataclass(frozen=True)
class Picture:
    """x is an axis or a column of tables, y a column; the labels of one axis become lines, those of another panels.

    scale: of x; x_name: what stands below it, with its unit, where that is an axis of the table. only: axis -> the
    labels of it that are drawn.
    """

    file: str
    kind: str
    x: str
    y: str
    line: str | None = None
    panel: str | None = None
    scale: str = "linear"
    x_name: str | None = None
    title: str | None = None
    only: dict[str, list[str]] = field(default_factory=dict)

    def labels(self, axis: str | None, grid: Grid) -> list[str | None]:
        """The labels of an axis that are drawn; of no axis, no label."""
        if axis is None:
            return [None]
        return [label for label in grid.axes[axis] if label in self.only.get(axis, grid.axes[axis])]

    def x_title(self, grid: Grid) -> str:
        """What stands below the x axis."""
        return self.x_name or (self.x.replace("_", " ") if self.x in grid.axes else COLUMNS[self.x].axis)

    def rest(self, grid: Grid) -> list[str]:
        """The axes with several labels that are neither x, lines nor panels."""
        return [
            axis
            for axis in grid.axes
            if axis not in (self.x, self.line, self.panel) and len(self.labels(axis, grid)) > 1
        ]


def pictures_of(grid: Grid) -> list[Picture]:
    """The pictures a table asks for. Raises InputError where one cannot be drawn, whatever its rows will be."""
    pictures = []
    for number, entry in enumerate(grid.pictures, 1):
        name = entry.get("file", number) if isinstance(entry, dict) else number
        try:
            pictures.append(_picture(entry, grid))
            if name in [picture.file for picture in pictures[:-1]]:
                raise ValueError("another picture has this file: give each its own")
        except ValueError as error:
            raise InputError(f"table {grid.name}, picture {name}: {error}") from None
    return pictures


def _picture(entry: object, grid: Grid) -> Picture:
    if not isinstance(entry, dict):
        raise ValueError("give a mapping with file, kind, x and y")
    axes = ("x", "line", "panel")  # whose names are text, as those of the table
    entry = entry | {key: str(entry[key]) for key in axes if entry.get(key) is not None}
    for key in entry:
        _one_of("key", key, [each.name for each in fields(Picture)])
    for each in fields(Picture):
        if each.default is MISSING and each.default_factory is MISSING and each.name not in entry:
            raise ValueError(f"has no {each.name}: give it")
    for key in ("title", "x_name"):
        if not isinstance(entry.get(key), str | None):
            raise ValueError(f"{key}={entry[key]}: give a text, in quotes where YAML reads it as something else")
    if not isinstance(entry.get("only", {}), dict):
        raise ValueError(f"only={entry['only']}: give a mapping from an axis to labels of it")
    if not re.fullmatch(r"[\w-]+", str(entry["file"])):
        raise ValueError("give as file a name of letters, digits, - and _; the ending is added")
    for key, allowed in CHOICES.items():
        _one_of(key, entry.get(key, "linear"), allowed)
    _one_of("y", entry["y"], COLUMNS)
    _one_of("x", entry["x"], [*grid.axes] if entry["kind"] == "bars" else [*grid.axes, *COLUMNS])
    for key in ("line", "panel"):
        _one_of(key, entry.get(key) or next(iter(grid.axes)), grid.axes)
    only = {}
    for axis, labels in entry.get("only", {}).items():
        axis = str(axis)
        _one_of("only", axis, grid.axes)
        only[axis] = [str(label) for label in (labels if isinstance(labels, list) else [labels])]
        for label in only[axis]:
            _one_of(f"only.{axis}", label, grid.axes[axis])
    picture = Picture(**entry | {"only": only})
    if picture.x in grid.axes:
        _check_labels(picture, grid)
    return picture


def _check_labels(picture: Picture, grid: Grid) -> None:
    """One point a label and line; numbers, unless they stand under bars."""
    if rest := picture.rest(grid):
        raise ValueError(f"several labels of {rest[0]} would share a place: make it line or panel, or keep one by only")
    if picture.kind == "bars":
        return
    for label in picture.labels(picture.x, grid):
        if not _is_number(label) or (float(label) <= 0 and picture.scale != "linear"):
            wanted = "numbers" if picture.scale == "linear" else f"numbers above 0 for {picture.scale}"
            raise ValueError(f"x={picture.x} has the label {label}: give an axis of {wanted}, or kind: bars")


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def _one_of(key: str, given: object, allowed: Collection[str]) -> None:
    if given not in list(allowed):
        raise ValueError(f"{key}={given}: give one of {', '.join(allowed)}")
