"""Gather the records of runs into a CSV file, a line a run.

python -m attnround.study.gather outputs/cost results/cost.csv
"""

import math
import sys
from pathlib import Path

from attnround.errors import InputError
from attnround.experiment.record import device_of, model_of
from attnround.experiment.schema import Nothing, read_run
from attnround.files import json_floats, write_atomically
from attnround.table import csv_text
from attnround.typed import Number

METRICS = (
    "fp32/top1", "nearest/top1", "nearest/agreement", "nearest/sqnr_db", "quantized/top1", "quantized/agreement",
    "quantized/sqnr_db", "quantized/kl", "quantized/confidence_change", "bits/mean", "bits/size_mib",
    "time/allocation_s", "time/scales_s", "time/reconstruction_s", "time/total_s", "memory/peak_mib",
)  # fmt: skip
LINE = {  # what a record must say for a line
    "choices": {"model": str, "quantizer": str, "bits": str, str: (str, Nothing)},
    "versions": {"torch": str},
    "config": {
        "model": {"name": (str, Nothing), "factory?": str},
        "bits": {"budget?": (Number, Nothing), "bit_width?": (Number, Nothing)},
        "activation?": {"bit_width?": (Number, Nothing)},
    },
}


def line_of(record: dict) -> dict[str, object]:
    """The choices that make the run, its metrics, and where they come from."""
    config = record["config"]
    bits, metrics = config["bits"], json_floats(record["metrics"])
    if bits.get("budget") is None:
        asked = bits.get("bit_width")
    else:
        asked = bits["budget"] if bits.get("unit", "mean_bits") == "mean_bits" else None
    return {
        "model": model_of(record["choices"], config),
        "quantizer": record["choices"]["quantizer"],
        "bits": record["choices"]["bits"],
        "weight_bits": asked or f"{metrics.get('bits/mean', math.nan):.3f}",
        "reconstruction": record["choices"].get("reconstruction", "layer"),
        "activation": record["choices"].get("activation", "none"),
        "activation_bits": config.get("activation", {}).get("bit_width", 32),
        "qat": record["choices"].get("qat", "none"),
        "seed": record["seed"],
        **{name: f"{metrics[name]:.6g}" if name in metrics else "" for name in METRICS},
        "config_hash": record["config_hash"],
        "git_revision": record["git_revision"],
        "torch": record["versions"]["torch"],
        "device": device_of(record),
        "num_threads": record["num_threads"],
        "date": record["date"],
    }


def collect(folder: Path) -> list[dict[str, object]]:
    """The lines of all records below a folder, in the order of their choices and seeds."""
    lines = [line_of(read_run(path, LINE)) for path in folder.rglob("record.json")]
    return sorted(lines, key=lambda line: [str(value) for value in list(line.values())[:9]])


def main(source: str, target: str) -> None:
    """Write the records below `source` as the CSV file `target`."""
    lines = collect(Path(source))
    if not lines:
        raise InputError(f"{source} holds no record.json: give the folder of runs")
    write_atomically(Path(target), csv_text(lines))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("error: give the folder of the runs, and the CSV file to write")
    try:
        main(*sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {sys.argv[2]} cannot be written ({error.strerror})")
