"""The pictures of a table, drawn from its cells: points are means over seeds, with bars of a standard deviation."""

import math
from collections.abc import Sequence
from pathlib import Path

from attnround.study.pictures.marks import Line, Panel, Point, Scale
from attnround.study.pictures.panels import Frame, draw_panels
from attnround.study.pictures.wanted import Picture, pictures_of
from attnround.study.row import Row
from attnround.study.tables.columns import COLUMNS
from attnround.study.tables.grid import Cell, Grid
from attnround.study.tables.statistics import spread


def titles_of(grid: Grid, cells: Sequence[Cell]) -> dict[str, str]:
    """File without its ending -> what it shows, of each picture of a table that has a point."""
    return {
        f"{grid.name}_{picture.file}": picture.title or f"{COLUMNS[picture.y].axis} against {picture.x_title(grid)}"
        for picture in pictures_of(grid)
        if panels_of(picture, grid, cells)
    }


def draw_pictures(grid: Grid, cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Draw each picture of a table as <table>_<file>.png and .svg in a folder, and name what was drawn.

    The same rows give the same bytes. A picture without a point is not drawn, and removed if it was there.
    Raises InputError as `pictures_of` does.
    """
    drawn, titles = [], titles_of(grid, cells)
    for picture in pictures_of(grid):
        name = f"{grid.name}_{picture.file}"
        paths = [folder / f"{name}.{end}" for end in ("png", "svg")]
        if name in titles:
            draw_panels(panels_of(picture, grid, cells), _frame(picture), paths, titles[name])
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
            panels.append(Panel(title, lines, _float_level(picture, inside), _scale(picture, grid)))
    return panels


def _point(picture: Picture, grid: Grid, cell: Cell) -> Point | None:
    pairs = [(_x(picture, grid, cell, row), COLUMNS[picture.y].of(row)) for row in cell.rows]
    pairs = [pair for pair in pairs if None not in pair]
    if not pairs or not all(math.isfinite(each) for pair in pairs for each in pair):  # inf and NaN have no place
        return None
    x, y = (spread(values) for values in zip(*pairs, strict=True))
    name = ", ".join(cell.place[axis] for axis in picture.rest(grid))
    return Point(x.mean, y.mean, x.std or 0.0, y.std or 0.0, name)


def _x(picture: Picture, grid: Grid, cell: Cell, row: Row) -> float | None:
    if picture.x not in grid.axes:
        return COLUMNS[picture.x].of(row)
    label = cell.place[picture.x]
    return picture.labels(picture.x, grid).index(label) if picture.kind == "bars" else float(label)


def _float_level(picture: Picture, cells: Sequence[Cell]) -> float | None:
    """Where the float model stands in a panel, if y says so and the panel has but one float model."""
    if picture.y == "drop" and picture.kind != "bars":  # bars stand on it
        return 0.0
    levels = {
        round(level, 6) for cell in cells for row in cell.rows if (level := row.metrics.get("fp32/top1")) is not None
    }
    return levels.pop() if picture.y == "top1" and len(levels) == 1 else None


def _scale(picture: Picture, grid: Grid) -> Scale:
    labels = picture.labels(picture.x, grid) if picture.x in grid.axes else []
    ticks = dict(enumerate(labels)) if picture.kind == "bars" else {float(label): label for label in labels}
    return Scale(picture.x_title(grid), picture.scale, ticks)


def _frame(picture: Picture) -> Frame:
    legend = picture.line and picture.line.replace("_", " ")
    return Frame(picture.kind, COLUMNS[picture.y].axis, picture.title, legend, share_y=picture.kind == "bars")
