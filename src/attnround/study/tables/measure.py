"""What the cells of a table say: means and spreads over seeds, differences from the reference, who is the best."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attnround.study.row import Row
from attnround.study.tables.columns import COLUMNS, DIFFERENCES
from attnround.study.tables.grid import Cell, Grid
from attnround.study.tables.statistics import Difference, Spread, are_same, paired, paired_top1, spread


@dataclass(frozen=True)
class Measured:
    """A cell's numbers: its finished and failed rows, spreads and differences by column, and where it is the best."""

    done: tuple[Row, ...]
    failed: tuple[Row, ...]
    spreads: dict[str, Spread]
    differences: dict[str, Difference]
    best: frozenset[str]


def measure(grid: Grid, cells: Sequence[Cell]) -> list[Measured]:
    """The numbers of each cell. What a cell does not have is left out.

    A group are the cells whose labels differ in grid.compare alone. The best of it in top1 or sqnr_db is the cell whose
    paired interval against every other one lies above 0; all have to hold, so many rivals make no false winner.
    """
    groups = defaultdict(list)
    for cell in cells:
        groups[_group(grid, cell)].append(cell)
    return [_measure(grid, cell, groups[_group(grid, cell)]) for cell in cells]


def difference(a: Cell, b: Cell, column: str) -> Difference | None:
    """a - b in top1 (over images and seeds) or in sqnr_db (over seeds)."""
    if column == "top1":
        known = [row.correct["fp32"] for cell in (a, b) for row in done(cell) if "fp32" in row.correct]
        found = (_by_seed(cell, lambda row: row.correct.get("quantized")) for cell in (a, b))
        return paired_top1(*found, same_images=are_same(known))
    return paired(*(_by_seed(cell, COLUMNS[column].of) for cell in (a, b)))


def done(cell: Cell) -> tuple[Row, ...]:
    """The rows of a cell that did not fail."""
    return tuple(row for row in cell.rows if row.error is None)


def _by_seed(cell: Cell, of: Callable[[Row], object]) -> dict[int, object]:
    return {row.seed: value for row in done(cell) if (value := of(row)) is not None}


def _group(grid: Grid, cell: Cell) -> tuple[str, ...]:
    return tuple(label for axis, label in cell.place.items() if axis != grid.compare)


def _measure(grid: Grid, cell: Cell, group: Sequence[Cell]) -> Measured:
    rows = done(cell)
    spreads = {}
    for name, column in COLUMNS.items():
        values = [value for row in rows if (value := column.of(row)) is not None]
        if values:
            spreads[name] = spread(values)
    differences = {}
    reference = next((each for each in group if each.place[grid.compare] == grid.reference), None)
    if reference is not None and reference is not cell:
        found = {name: difference(cell, reference, column) for name, (column, _) in DIFFERENCES.items()}
        differences = {name: each for name, each in found.items() if each and not math.isnan(each.mean)}
    others = [each for each in group if each is not cell]
    best = {column for column, _ in DIFFERENCES.values() if others and _beats(cell, others, column)}
    failed = tuple(row for row in cell.rows if row.error is not None)
    return Measured(rows, failed, spreads, differences, frozenset(best))


def _beats(cell: Cell, others: Sequence[Cell], column: str) -> bool:
    found = [difference(cell, other, column) for other in others]
    return all(each is not None and each.significant and each.mean > 0 for each in found)
