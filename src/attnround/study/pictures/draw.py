"""The pictures of a table, drawn from its cells: points are means over seeds, with bars of a standard deviation."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from attnround.study.pictures.marks import Frame, Line, Panel, Point
from attnround.study.pictures.panels import draw_panels
from attnround.study.pictures.wanted import Picture, pictures_of
from attnround.study.row import Row
from attnround.study.tables.columns import COLUMNS
from attnround.study.tables.grid import Cell, Grid


def draw_pictures(grid: Grid, cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Draw each picture of a table as <table>_<file>.png and .svg in a folder, and name what was drawn.

    The same rows give the same bytes. A picture without a point is not drawn, and removed if it was there.
    Raises InputError as `pictures_of` does.
    """
    drawn = []
    for picture in pictures_of(grid):
        paths = [folder / f"{grid.name}_{picture.file}.{end}" for end in ("png", "svg")]
        if panels := panels_of(picture, grid, cells):
            draw_panels(panels, _frame(picture, grid), paths)
            drawn += paths
        else:
            for path in paths:
                path.unlink(missing_ok=True)
    return drawn


def panels_of(picture: Picture, grid: Grid, cells: Sequence[Cell]) -> list[Panel]:
    """The panels, lines and points that have rows, in the order of the axes' labels; a line ascends in x."""
    cells = [cell for cell in cells if all(cell.place[axis] in labels for axis, labels in picture.only.items())]
    panels = []
    for title in picture.labels(picture.panel, grid):
        inside = [cell for cell in cells if cell.place.get(picture.panel) == title]
        lines = []
        for label in picture.labels(picture.line, grid):
            of_line = [cell for cell in inside if cell.place.get(picture.line) == label]
            points = sorted(filter(None, (_point(picture, grid, cell) for cell in of_line)), key=lambda point: point.x)
            if points:
                # A label keeps its colour in every picture of the table.
                place = list(grid.axes[picture.line]).index(label) if label else 0
                lines.append(Line(label, place, picture.line == grid.compare and label == grid.reference, points))
        if lines:
            panels.append(Panel(title, lines, _float_level(picture, inside)))
    return panels


def _point(picture: Picture, grid: Grid, cell: Cell) -> Point | None:
    pairs = [(_x(picture, grid, cell, row), COLUMNS[picture.y].of(row)) for row in cell.rows]
    pairs = [
        pair for pair in pairs if None not in pair and all(map(math.isfinite, pair))
    ]  # inf has no place on an axis
    if not pairs:
        return None
    (x, x_spread), (y, y_spread) = (_mean_and_spread(values) for values in zip(*pairs, strict=True))
    return Point(x, y, x_spread, y_spread, ", ".join(cell.place[axis] for axis in picture.rest(grid)))


def _x(picture: Picture, grid: Grid, cell: Cell, row: Row) -> float | None:
    if picture.x not in grid.axes:
        return COLUMNS[picture.x].of(row)
    label = cell.place[picture.x]
    return picture.labels(picture.x, grid).index(label) if picture.kind == "bars" else float(label)


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _float_level(picture: Picture, cells: Sequence[Cell]) -> float | None:
    """Where the float model stands in a panel, if y says so and the panel has but one float model."""
    if picture.y == "drop" and picture.kind != "bars":  # bars stand on it
        return 0.0
    levels = {
        round(level, 6) for cell in cells for row in cell.rows if (level := row.metrics.get("fp32/top1")) is not None
    }
    return levels.pop() if picture.y == "top1" and len(levels) == 1 else None


def _frame(picture: Picture, grid: Grid) -> Frame:
    labels = picture.labels(picture.x, grid) if picture.x in grid.axes else []
    ticks = dict(enumerate(labels)) if picture.kind == "bars" else {float(label): label for label in labels}
    return Frame(
        kind=picture.kind,
        scale=picture.scale,
        title=picture.title,
        ticks={place: str(label) for place, label in ticks.items()},
        names=(picture.x if picture.x in grid.axes else COLUMNS[picture.x].axis, COLUMNS[picture.y].axis),
        legend=picture.line,
    )
