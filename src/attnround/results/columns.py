"""The columns that a table may have. A user names them in conf/table; numbers of a row, or differences between rows."""

from collections.abc import Callable
from dataclasses import dataclass

from attnround.results.row import Row

STAGES = ("time/allocation_s", "time/scales_s", "time/reconstruction_s", "time/qat_s")


@dataclass(frozen=True)
class Column:
    """A number of a row, under a title; None where the row does not have it."""

    title: str
    of: Callable[[Row], float | None]
    decimals: int = 2
    shows_std: bool = True


def _metric(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.metrics.get(name)


def _drop(row: Row) -> float | None:
    fp32, top1 = (row.metrics.get(f"{name}/top1") for name in ("fp32", "quantized"))
    return None if fp32 is None or top1 is None else fp32 - top1


def _seconds(row: Row) -> float | None:
    times = [row.metrics[name] for name in STAGES if name in row.metrics]
    return sum(times) if times else None


COLUMNS = {
    "top1": Column("top-1 %", _metric("quantized/top1")),
    "drop": Column("FP32 - top-1", _drop),
    "agreement": Column("agreement %", _metric("quantized/agreement")),
    "sqnr_db": Column("SQNR dB", _metric("quantized/sqnr_db")),
    "mean_bits": Column("bits", _metric("bits/mean"), shows_std=False),
    "mib": Column("MiB", _metric("bits/size_mib"), decimals=3, shows_std=False),
    "seconds": Column("seconds", _seconds, decimals=1),
    "labels": Column("labels", lambda row: row.metrics.get("qat/labels", 0), decimals=0, shows_std=False),
    "images": Column(
        "calibration images",
        lambda row: row.config.get("data", {}).get("num_calibration"),
        decimals=0,
        shows_std=False,
    ),
}
DIFFERENCES = {"difference": ("top1", "top-1, points"), "difference_db": ("sqnr_db", "SQNR, dB")}  # of what; title
