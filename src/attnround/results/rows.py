"""Gather the records of runs into rows, and rows into a table of means and spreads.

python -m attnround.results.rows outputs/rounding results/rounding
"""

import csv
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from attnround.results.record import write_atomically
from attnround.results.table import csv_text

METRICS = (
    "fp32/top1", "nearest/top1", "nearest/agreement", "nearest/sqnr_db", "quantized/top1", "quantized/agreement",
    "quantized/sqnr_db", "bits/mean", "bits/size_mib", "time/reconstruction_s", "time/total_s", "memory/peak_mib",
)  # fmt: skip


def row_of(record: dict) -> dict[str, object]:
    """A flat row: the choices that make the run, its metrics, and where they come from."""
    config = record["config"]
    bits = config["bits"]
    return {
        "model": config["model"]["name"] if record["choices"]["model"] == "timm" else record["choices"]["model"],
        "quantizer": record["choices"]["quantizer"],
        "bits": record["choices"]["bits"],
        "weight_bits": bits.get("budget") or bits.get("bit_width") or f"{record['metrics']['bits/mean']:.3f}",
        "reconstruction": record["choices"].get("reconstruction", "layer"),
        "activation": record["choices"].get("activation", "none"),
        "activation_bits": config.get("activation", {}).get("bit_width", 32),
        "qat": record["choices"].get("qat", "none"),
        "seed": record["seed"],
        **{name: f"{record['metrics'][name]:.6g}" for name in METRICS},
        "config_hash": record["config_hash"],
        "git_revision": record["git_revision"],
        "torch": record["versions"]["torch"],
        "device": record["processor"] if record["device"] == "cpu" else record["device"],
        "num_threads": record["num_threads"],
        "date": record["date"],
    }


def collect(folder: Path) -> list[dict[str, object]]:
    """The rows of all records below a folder, in the order of their choices and seeds."""
    rows = [row_of(json.loads(path.read_text())) for path in folder.rglob("record.json")]
    return sorted(rows, key=lambda row: [str(value) for value in list(row.values())[:9]])


def summary(rows: list[dict[str, str]]) -> str:
    """Markdown: for each model and allocation, nearest and each quantizer; means and standard deviations over seeds."""
    groups = defaultdict(lambda: defaultdict(list))
    for row in rows:
        inputs = "" if row.get("activation", "none") == "none" else f", A{row['activation_bits']} {row['activation']}"
        objective = "" if row.get("reconstruction", "layer") == "layer" else f", {row['reconstruction']}"
        objective += "" if row.get("qat", "none") == "none" else f", then qat {row['qat']}"
        place = (row["model"], row["bits"], -float(row["weight_bits"]), inputs)
        groups[place][row["quantizer"] + objective].append(row)
    header = [
        "model",
        "bits",
        "quantizer",
        "seeds",
        "top-1 %",
        "FP32 - top-1",
        "agreement %",
        "SQNR dB",
        "MiB",
        "seconds",
    ]
    lines = [header, ["---"] * len(header)]
    for (model, bits, width, inputs), quantizers in sorted(groups.items()):
        place = [model, f"{bits} {-width:g}{inputs}"]
        lines.append([*place, "nearest", "1", *_cells("nearest", next(iter(quantizers.values()))[:1]), "-"])
        for quantizer, members in sorted(quantizers.items()):
            seconds = statistics.mean(float(row["time/reconstruction_s"]) for row in members)
            lines.append([*place, quantizer, str(len(members)), *_cells("quantized", members), f"{seconds:.0f}"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(name: str, rows: list[dict[str, str]]) -> list[str]:
    values = {metric: [float(row[f"{name}/{metric}"]) for row in rows] for metric in ("top1", "agreement", "sqnr_db")}
    drops = [float(row["fp32/top1"]) - top1 for row, top1 in zip(rows, values["top1"], strict=True)]
    size = statistics.mean(float(row["bits/size_mib"]) for row in rows)
    shown = (values["top1"], drops, values["agreement"], values["sqnr_db"])
    return [*map(spread, shown), f"{size:.2f}"]


def spread(values: list[float]) -> str:
    """Mean and standard deviation, as `93.10 ± 0.04`.

    >>> spread([1.0, 2.0, 3.0]), spread([5.0])
    ('2.00 ± 1.00', '5.00')
    """
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def main(source: str, target: str) -> None:
    """Write <target>.csv from the records below `source`, and <target>.md from that file."""
    rows = collect(Path(source))
    write_atomically(Path(f"{target}.csv"), csv_text(rows))
    write_atomically(Path(f"{target}.md"), summary_of(Path(f"{target}.csv")))


def summary_of(path: Path) -> str:
    """The Markdown table of a committed file of rows."""
    with path.open() as file:
        return summary(list(csv.DictReader(file)))


if __name__ == "__main__":
    main(*sys.argv[1:])
