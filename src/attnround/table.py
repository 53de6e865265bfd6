"""Tables: as plain text for a person, as CSV for a program."""

import csv
import io
from collections.abc import Mapping, Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns of plain text: the first flush left, the others flush right; None is a dash.

    >>> print(text_table(["model", "top-1 %"], [["fp32", "93.10"], ["nearest", None]]))
    model    top-1 %
    fp32       93.10
    nearest        -
    """
    cells = [list(header)] + [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown, without a line break at its end.

    >>> print(markdown_table(["layer", "bits"], [["conv1", 8]]))
    | layer | bits |
    | --- | --- |
    | conv1 | 8 |
    """
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [header, ["---"] * len(header), *rows])


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of equal keys as CSV with a header; lists are written as 1x2x3."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: plain(value) for key, value in row.items()})
    return out.getvalue()


def plain(value: object) -> object:
    """A shape as 16x3x3; anything else as it is."""
    return "x".join(map(str, value)) if isinstance(value, list) else value
