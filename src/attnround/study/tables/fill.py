"""A table from the rows of its runs, with what others published below them. The same rows give the same table."""

from collections import defaultdict
from collections.abc import Sequence

from attnround.study.tables.columns import COLUMNS, DIFFERENCES, INTERVALS
from attnround.study.tables.grid import Cell, Grid
from attnround.study.tables.measure import Measured, measure
from attnround.study.tables.notes import FAILED, FEWER_SEEDS, ONE_SEED, OTHER_REVISION, main_revision, notes, unique
from attnround.study.tables.published import KINDS, Published, beside, names_place
from attnround.study.tables.statistics import Difference
from attnround.study.tables.table import Entry, Line, Table

MISSING = "-"
MOST = 60  # letters of an error in its place; below the table it stands whole


def fill(grid: Grid, cells: Sequence[Cell], published: Sequence[Published] = (), command: str | None = None) -> Table:
    """The table of cells in their order; below those of a model and bits what others published for them.

    command: what makes the table, to be named in it.
    """
    command = command or f"make tables TABLE={grid.name}"
    measured = measure(grid, cells)
    main = main_revision(unique(cells))
    after = _published_after(grid, cells, published)
    lines = []
    for i, (cell, numbers) in enumerate(zip(cells, measured, strict=True)):
        lines.append(Line(_entries(grid, cell, numbers, main), _about(cell, numbers, command), _kind(numbers)))
        lines += [_published_line(grid, cell, each) for each in after.get(i, ())]
    return Table(
        name=grid.name,
        caption=grid.caption,
        command=command,
        header=[
            *(axis.replace("_", " ") for axis in grid.axes),
            "seeds",
            *(_title(grid, each) for each in grid.columns),
        ],
        num_labels=len(grid.axes),
        notes=notes(grid, cells, measured, published if after else ()),
        lines=lines,
    )


def number(value: float | None) -> float | None:
    """To six digits, and six decimals: what is smaller depends on the version of scipy.

    >>> number(93.123456789), number(-0.00018228476)
    (93.1235, -0.000182)
    """
    return None if value is None else float(f"{round(value, 6) + 0.0:.6g}")


def show_difference(value: Difference) -> tuple[str, str]:
    """A difference and its interval, signed.

    >>> show_difference(Difference(0.12, -0.001, 0.24, 3))
    ('+0.12', '[+0.00, +0.24]')
    """
    mean, *bounds = (f"{round(each, 2) + 0.0:+.2f}" for each in (value.mean, value.low, value.high) if each is not None)
    return mean, f"[{', '.join(bounds)}]" if bounds else ""


def _title(grid: Grid, name: str) -> str:
    if name in INTERVALS:
        return INTERVALS[name][1]
    return f"minus {grid.reference}: {DIFFERENCES[name][1]}" if name in DIFFERENCES else COLUMNS[name].title


def _kind(numbers: Measured) -> str:
    return "failed" if numbers.failed and not numbers.done else ""


def _entries(grid: Grid, cell: Cell, numbers: Measured, main: str | None) -> list[Entry]:
    entries = [_entry(grid, cell, numbers, name) for name in grid.columns]
    if _kind(numbers) == "failed":
        error = numbers.failed[0].error
        short = error if len(error) <= MOST else error[: MOST - 1] + "…"
        entries[0] = entries[0]._replace(text=f"failed: {short}")
    return [*_labels(cell.place), _seeds(grid, cell, numbers, main), *entries]


def _entry(grid: Grid, cell: Cell, numbers: Measured, name: str) -> Entry:
    if name in INTERVALS:
        return _interval(numbers, name)
    return _difference(grid, cell, numbers, name) if name in DIFFERENCES else _spread(numbers, name)


def _labels(place: dict[str, str]) -> list[Entry]:
    return [Entry(label, fields={axis: label}) for axis, label in place.items()]


def _seeds(grid: Grid, cell: Cell, numbers: Measured, main: str | None) -> Entry:
    fields = {"num_seeds": len(numbers.done), "num_failed": len(numbers.failed)}
    if not cell.rows:
        return Entry(MISSING, fields=fields)
    text = f"{len(numbers.done)}" + (f" of {len(grid.seeds)}" if len(numbers.done) != len(grid.seeds) else "")
    other = any(row.git_revision != main for row in numbers.done)
    mark = " ".join([FAILED] * bool(numbers.failed) + [OTHER_REVISION] * other)
    return Entry(text, mark=mark, fields=fields)


def _spread(numbers: Measured, name: str) -> Entry:
    value, column = numbers.spreads.get(name), COLUMNS[name]
    fields = {f"{name}_{end}": number(value and getattr(value, end)) for end in ("mean", "std")}
    if value is None:
        return Entry(MISSING, fields=fields)
    std = f"± {value.std:.{column.decimals}f}" if column.shows_std and value.std is not None else ""
    return Entry(f"{value.mean:.{column.decimals}f}", std, bold=name in numbers.best, fields=fields)


def _interval(numbers: Measured, name: str) -> Entry:
    """Of a percentage of the evaluation images, the mean over seeds; they are known where they have labels."""
    from attnround.evaluation.interval import wilson  # here: its package imports torch, for which tables do not wait

    value = numbers.spreads.get(INTERVALS[name][0])
    counts = {len(row.correct["quantized"]) for row in numbers.done if "quantized" in row.correct}
    low, high = wilson(value.mean, min(counts)) if value and counts else (None, None)
    fields = {f"{name}_low": number(low), f"{name}_high": number(high)}
    return Entry(MISSING if low is None else f"{low:.1f} to {high:.1f}", fields=fields)


def _difference(grid: Grid, cell: Cell, numbers: Measured, name: str) -> Entry:
    value = numbers.differences.get(name)
    fields = {f"{name}_{end}": number(value and getattr(value, end)) for end in ("mean", "low", "high")}
    if value is None:
        is_reference = numbers.done and cell.place[grid.compare] == grid.reference
        return Entry("reference" if is_reference else MISSING, fields=fields)
    mark = " ".join([ONE_SEED] * (value.num_seeds == 1) + [FEWER_SEEDS] * (value.num_seeds < len(numbers.done)))
    return Entry(*show_difference(value), mark, fields=fields)


def _about(cell: Cell, numbers: Measured, command: str) -> dict[str, str | float | None]:
    rows = cell.rows
    return {
        "best": " ".join(sorted(numbers.best)),
        "error": "; ".join(dict.fromkeys(row.error for row in numbers.failed)),
        "published": "",
        "config_hashes": " ".join(row.config_hash for row in rows),
        "git_revision": " ".join(sorted({row.git_revision for row in rows})),
        "device": "; ".join(sorted({row.device for row in rows})),
        "num_threads": " ".join(sorted({str(row.num_threads) for row in numbers.done})),
        "total_s": number(sum(row.metrics.get("time/total_s", 0) for row in rows)) if rows else None,
        "command": command,
    }


def _published_after(grid: Grid, cells: Sequence[Cell], published: Sequence[Published]) -> dict[int, list[Published]]:
    """Index of a cell -> the published lines below it: it is the last one of its model and bits."""
    after = defaultdict(list)
    if not any(map(names_place, grid.axes[grid.compare])):  # else a method's name has no column to stand in
        last = {line: i for i, cell in enumerate(cells) for line in beside(cell.place, published)}
        for line, i in last.items():
            after[i].append(line)
    return dict(after)


def _published_line(grid: Grid, cell: Cell, line: Published) -> Line:
    place = {axis: label if names_place(label) else MISSING for axis, label in cell.place.items()}
    place[grid.compare] = f"{line.method} (published {KINDS[line.kind]}, {line.source})"
    known = {"top1": line.top1, "drop": None if line.fp32 is None else line.fp32 - line.top1}
    entries = [
        Entry(MISSING)
        if (value := known.get(name)) is None
        else Entry(f"{value:.2f}", fields={f"{name}_mean": number(value)})
        for name in ("seeds", *grid.columns)
    ]
    return Line([*_labels(place), *entries], {"published": line.source}, "published")
