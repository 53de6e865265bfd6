"""What stands below a table: where its numbers come from, and how to read them."""

from collections import Counter
from collections.abc import Sequence

from attnround.study.row import Row
from attnround.study.tables.columns import DIFFERENCES, INTERVALS
from attnround.study.tables.grid import Cell, Grid
from attnround.study.tables.measure import Measured, done
from attnround.study.tables.published import Published, models_of

OTHER_REVISION, FAILED, ONE_SEED, FEWER_SEEDS = "†", "‡", "¹", "²"
# Of a difference: what its interval is for, with several seeds and with one.
SEVERAL = {"difference": "of top-1 for other seeds and other test images", "difference_db": "of SQNR for other seeds"}
ONE = {"difference": "the interval of top-1 is for other test images alone", "difference_db": "SQNR has no interval"}


def main_revision(rows: Sequence[Row]) -> str | None:
    """The revision of most rows, of equally many the one with the latest row; None without rows."""
    counts = Counter(row.git_revision for row in rows)
    latest = {row.git_revision: row.date for row in sorted(rows, key=lambda row: row.date)}
    return max(counts, key=lambda revision: (counts[revision], latest[revision], revision), default=None)


def unique(cells: Sequence[Cell]) -> list[Row]:
    """Every row that did not fail, once: one run may stand in several cells."""
    return list({row.config_hash: row for cell in cells for row in done(cell)}.values())


def notes(grid: Grid, cells: Sequence[Cell], measured: Sequence[Measured], published: Sequence[Published]) -> list[str]:
    """The sentences below the table, each a paragraph."""
    if not any(cell.rows for cell in cells):
        return ["No row yet."]
    rows = unique(cells)
    found = [_provenance(rows), _revisions(rows)] if rows else ["Every row failed."]
    found += [_reading(grid, measured), _float(cells)]
    found += [_published(cells, published), *_failures(cells, measured)]
    return [each for each in found if each]


def _provenance(rows: Sequence[Row]) -> str:
    seconds = sum(row.metrics.get("time/total_s", 0) for row in rows)
    days = sorted(row.date[:10] for row in rows)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    devices = sorted({f"{row.device}, {_count(row.num_threads, 'thread')}" for row in rows})
    return f"{_count(len(rows), 'row')}, {duration(seconds)} of runs in all, {when}, on {'; '.join(devices)}."


def _revisions(rows: Sequence[Row]) -> str:
    main = main_revision(rows)
    counts = Counter(row.git_revision for row in rows)
    dirty = " (+: with changes that are not committed)" if any(each.endswith("+") for each in counts) else ""
    if len(counts) == 1:
        return f"Revision {main}{dirty}."
    others = ", ".join(f"{name} ({_count(counts[name], 'row')})" for name in sorted(counts.keys() - {main}))
    return (
        f"More than one revision: {main} ({_count(counts[main], 'row')}), {others}; "
        f"lines with rows of the latter are marked {OTHER_REVISION}{dirty}."
    )


def _reading(grid: Grid, measured: Sequence[Measured]) -> str:
    text = "± is the standard deviation over seeds."
    if set(grid.columns) & set(INTERVALS):
        text += " 95 %: where the mean over seeds may lie on other images of the kind (Wilson)."
    found = {name for each in measured for name in each.differences}
    shown = [name for name in DIFFERENCES if name in found and name in grid.columns]
    if shown:
        what = ", ".join(SEVERAL[name] for name in shown)
        text += f" Differences are a line's minus that of {grid.reference}, paired, with a 95 % interval: {what}."
    counts = [
        (each.differences[name].num_seeds, len(each.done))
        for each in measured
        for name in shown
        if name in each.differences
    ]
    if any(count == 1 for count, _ in counts):
        text += f" {ONE_SEED} one seed: {', and '.join(ONE[name] for name in shown)}."
    if any(count < of_line for count, of_line in counts):
        text += f" {FEWER_SEEDS} over fewer seeds than the line has: those that {grid.reference} has too."
    shown_bold = {column for column, _ in DIFFERENCES.values()} & set(grid.columns)
    bold = [each for each in measured if each.best & shown_bold]
    if bold:
        text += f" Bold: better than every other {grid.compare} beside it, each paired 95 % interval above 0"
        text += ", of other images alone where there is one seed." if any(len(each.done) == 1 for each in bold) else "."
    return text


def _float(cells: Sequence[Cell]) -> str:
    found: dict[str, set[str]] = {}
    for cell in cells:
        for row in cell.rows:
            if "fp32/top1" in row.metrics:
                name = cell.place.get("model", row.choices.get("model"))
                found.setdefault(name, set()).add(f"{row.metrics['fp32/top1']:.2f}")
    listed = [f"{name} {' or '.join(sorted(values))}" for name, values in found.items()]
    return f"FP32 top-1 %: {', '.join(listed)}." if listed else ""


def _published(cells: Sequence[Cell], published: Sequence[Published]) -> str:
    models = {name for cell in cells for name in models_of(cell.place)}
    lines = [line for line in published if line.kind == "fp32" and line.model in models]
    listed = ", ".join(f"{line.model} {line.top1:.2f} ({line.source})" for line in lines)
    return f"Published numbers have checkpoints of their own, FP32 top-1 %: {listed}." if listed else ""


def _failures(cells: Sequence[Cell], measured: Sequence[Measured]) -> list[str]:
    return [
        f"{FAILED} failed: {', '.join(cell.place.values())}, seed {row.seed}: {row.error}"
        for cell, each in zip(cells, measured, strict=True)
        for row in each.failed
    ]


def duration(seconds: float) -> str:
    """As a person says it.

    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
