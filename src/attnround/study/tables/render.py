"""A table from its cells, with what others published below them. The same rows give the same bytes."""

from collections import defaultdict
from collections.abc import Sequence

from attnround.study.tables.columns import COLUMNS, DIFFERENCES
from attnround.study.tables.grid import Cell, Grid
from attnround.study.tables.measure import Measured, measure
from attnround.study.tables.notes import FAILED, ONE_SEED, OTHER_REVISION, main_revision, notes, unique
from attnround.study.tables.published import KINDS, Published, beside, names_place
from attnround.study.tables.rendered import Rendered, Text
from attnround.study.tables.statistics import Difference, Spread

MISSING = "-"
MOST = 60  # letters of an error in its cell; below the table it stands whole


def render(
    grid: Grid, cells: Sequence[Cell], published: Sequence[Published] = (), command: str | None = None
) -> Rendered:
    """The table of cells in their order; below those of a model and bits what others published for them.

    command: what makes the table, to be named in it.
    """
    command = command or f"make tables TABLE={grid.name}"
    measured = measure(grid, cells)
    main = main_revision(unique(cells))
    lines, records = [], []
    after = _published_after(grid, cells, published)
    for i, (cell, numbers) in enumerate(zip(cells, measured, strict=True)):
        lines.append((*map(Text, cell.place.values()), *_texts(grid, cell, numbers, main)))
        records.append(_record(grid, cell, numbers) | {"command": command})
        for line in after.get(i, ()):
            labels = _published_labels(grid, cell, line)
            lines.append((*map(Text, labels.values()), *_published_texts(grid, line)))
            records.append(dict.fromkeys(records[-1], "") | labels | _published_record(grid, line))
    header = [*(axis.replace("_", " ") for axis in grid.axes), "seeds"]
    header += [_title(grid, name) for name in grid.columns]
    below = tuple(notes(grid, cells, measured, published if after else ()))
    return Rendered(
        grid.name, grid.caption, command, tuple(header), len(grid.axes), tuple(lines), tuple(records), below
    )


def show_spread(value: Spread, decimals: int = 2, shows_std: bool = True) -> str:
    """As `93.10 ± 0.04`; without the spread where there is none."""
    std = f" ± {value.std:.{decimals}f}" if shows_std and value.std is not None else ""
    return f"{value.mean:.{decimals}f}{std}"


def show_difference(value: Difference) -> str:
    """As `+0.12 [+0.03, +0.21]`.

    >>> show_difference(Difference(0.12, -0.001, 0.24, 3))
    '+0.12 [+0.00, +0.24]'
    """
    mean, *bounds = (f"{round(each, 2) + 0.0:+.2f}" for each in (value.mean, value.low, value.high) if each is not None)
    interval = f" [{', '.join(bounds)}]" if bounds else ""
    return mean + interval + (f" {ONE_SEED}" if value.num_seeds == 1 else "")


def _title(grid: Grid, name: str) -> str:
    return f"minus {grid.reference}: {DIFFERENCES[name][1]}" if name in DIFFERENCES else COLUMNS[name].title


def _texts(grid: Grid, cell: Cell, numbers: Measured, main: str | None) -> list[Text]:
    if not cell.rows:
        return [Text(MISSING)] * (1 + len(grid.columns))
    seeds = f"{len(numbers.done)}" + (f" of {len(grid.seeds)}" if len(numbers.done) != len(grid.seeds) else "")
    seeds += f" {FAILED}" if numbers.failed else ""
    seeds += f" {OTHER_REVISION}" if any(row.git_revision != main for row in cell.rows) else ""
    if not numbers.done:
        error = numbers.failed[0].error
        short = error if len(error) <= MOST else error[: MOST - 1] + "…"
        return [Text(seeds), Text(f"failed: {short}"), *[Text(MISSING)] * (len(grid.columns) - 1)]
    return [Text(seeds), *(_text(grid, cell, numbers, name) for name in grid.columns)]


def _text(grid: Grid, cell: Cell, numbers: Measured, name: str) -> Text:
    if name in DIFFERENCES:
        if cell.place[grid.compare] == grid.reference:
            return Text("reference")
        return Text(show_difference(numbers.differences[name]) if name in numbers.differences else MISSING)
    if name not in numbers.spreads:
        return Text(MISSING)
    column = COLUMNS[name]
    return Text(show_spread(numbers.spreads[name], column.decimals, column.shows_std), name in numbers.best)


def _record(grid: Grid, cell: Cell, numbers: Measured) -> dict[str, object]:
    record = dict(cell.place) | {"num_seeds": len(numbers.done), "num_failed": len(numbers.failed)}
    for name in grid.columns:
        if name in DIFFERENCES:
            value, ends = numbers.differences.get(name), ("mean", "low", "high")
        else:
            value, ends = numbers.spreads.get(name), ("mean", "std")
        record |= {f"{name}_{end}": _number(value and getattr(value, end)) for end in ends}
    rows = cell.rows
    return record | {
        "best": " ".join(sorted(numbers.best)),
        "error": "; ".join(dict.fromkeys(row.error for row in numbers.failed)),
        "published": "",
        "config_hashes": " ".join(row.config_hash for row in rows),
        "git_revision": " ".join(sorted({row.git_revision for row in rows})),
        "device": "; ".join(sorted({row.device for row in rows})),
        "num_threads": " ".join(sorted({str(row.num_threads) for row in rows})),
        "total_s": _number(sum(row.metrics.get("time/total_s", 0) for row in rows)) if rows else "",
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value + 0.0:.8g}"


def _published_after(grid: Grid, cells: Sequence[Cell], published: Sequence[Published]) -> dict[int, list[Published]]:
    """Index of a cell -> the published lines below it: it is the last one of its model and bits."""
    after = defaultdict(list)
    if not any(map(names_place, grid.axes[grid.compare])):  # else a method's name has no column to stand in
        last = {line: i for i, cell in enumerate(cells) for line in beside(cell.place, published)}
        for line, i in last.items():
            after[i].append(line)
    return dict(after)


def _published_labels(grid: Grid, cell: Cell, line: Published) -> dict[str, str]:
    labels = {axis: label if names_place(label) else MISSING for axis, label in cell.place.items()}
    return labels | {grid.compare: f"{line.method} (published {KINDS[line.kind]}, {line.source})"}


def _published_numbers(line: Published) -> dict[str, float | None]:
    drop = None if line.fp32 is None else line.fp32 - line.top1
    return {"top1": line.top1, "drop": drop}


def _published_texts(grid: Grid, line: Published) -> list[Text]:
    numbers = _published_numbers(line)
    values = [numbers.get(name) for name in ("seeds", *grid.columns)]
    return [Text(MISSING if value is None else f"{value:.2f}") for value in values]


def _published_record(grid: Grid, line: Published) -> dict[str, object]:
    numbers = _published_numbers(line)
    shown = {f"{name}_mean": _number(numbers[name]) for name in numbers if name in grid.columns}
    return shown | {"published": line.source}
