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


def comparison(method: str, metrics: dict[str, float], training: str = "none") -> str:
    """The table a run ends with: FP32, rounding to nearest at the same bits, the chosen method.

    training: what was trained with labels after that, which then has a row of its own.
    """
    header = ["", "top-1 %", "agreement %", "SQNR dB", "bits", "MiB", "seconds"]
    rows = [["fp32", f"{metrics['fp32/top1']:.2f}", None, None, "32", f"{metrics['fp32/size_mib']:.2f}", None]]
    scales_s, reconstruction_s = metrics["time/scales_s"], metrics["time/reconstruction_s"]
    trained = "time/qat_s" in metrics
    stages = [
        ("nearest", "nearest", scales_s),
        ("ptq" if trained else "quantized", method, scales_s + reconstruction_s),
    ]
    if trained:
        stages.append(("quantized", training, metrics["time/qat_s"]))
    for name, label, seconds in stages:
        values = [f"{metrics[f'{name}/{key}']:.2f}" for key in ("top1", "agreement", "sqnr_db")]
        size = [f"{metrics['bits/mean']:.2f}", f"{metrics['bits/size_mib']:.2f}"]
        rows.append([label, *values, *size, f"{seconds:.1f}"])
    return text_table(header, rows)
