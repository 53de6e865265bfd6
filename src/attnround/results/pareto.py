"""Accuracy against size: a line an allocator, a picture a model.

python -m attnround.results.pareto results/allocators.csv results/allocators    # results/allocators_<model>.png
"""

import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from attnround.results.pictures.run import draw_lines


def lines_of(rows: list[dict[str, str]], metric: str) -> dict[str, list[tuple[float, list[float]]]]:
    """Allocator -> (mean MiB, the seeds' values of the metric) for each of its budgets, ascending in size."""
    points = defaultdict(lambda: defaultdict(list))
    for row in rows:
        points[row["bits"]][row["weight_bits"]].append((float(row["bits/size_mib"]), float(row[metric])))
    return {
        name: sorted(
            (statistics.mean(size for size, _ in pairs), [value for _, value in pairs]) for pairs in budgets.values()
        )
        for name, budgets in sorted(points.items())
    }


def main(source: str, target: str) -> None:
    """Draw the rows of a file: top-1, and the SQNR of the logits, which tells apart what top-1 does not."""
    with Path(source).open() as file:
        rows = list(csv.DictReader(file))
    for model in sorted({row["model"] for row in rows}):
        of_model = [row for row in rows if row["model"] == model]
        fp32 = statistics.mean(float(row["fp32/top1"]) for row in of_model)
        for metric, label, end in (
            ("quantized/top1", "top-1 %", ""),
            ("quantized/sqnr_db", "SQNR of the logits, dB", "_sqnr"),
        ):
            title = f"{model}, FP32 {fp32:.2f} %"
            draw_lines(lines_of(of_model, metric), Path(f"{target}_{model}{end}.png"), title, ("MiB", label))


if __name__ == "__main__":
    main(*sys.argv[1:])
