"""The numbers of a row that tables and pictures show, and their differences. A user names them in conf/table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from attnround.study.row import Row

STAGES = ("time/allocation_s", "time/scales_s", "time/reconstruction_s", "time/qat_s")


@dataclass(frozen=True)
class Column:
    """A number of a row; None where the row does not have it. title: in a table; axis: in a picture."""

    title: str
    axis: str
    of: Callable[[Row], float | None]
    decimals: int = 2
    shows_std: bool = True


def _metric(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.metrics.get(name)


def _drop(row: Row) -> float | None:
    fp32, top1 = (row.metrics.get(f"{name}/top1") for name in ("fp32", "quantized"))
    return None if fp32 is None or top1 is None else fp32 - top1


def seconds(metrics: Mapping[str, float]) -> float | None:
    """What a user waits for: all stages that the run had."""
    times = [metrics[name] for name in STAGES if name in metrics]
    return sum(times) if times else None


def _labels(row: Row) -> float | None:
    return None if row.error else row.metrics.get("qat/labels", 0)


def _images(row: Row) -> float | None:
    return None if row.error else row.config.get("data", {}).get("num_calibration")


COLUMNS = {
    "top1": Column("top-1 %", "top-1, %", _metric("quantized/top1")),
    "drop": Column("FP32 - top-1", "FP32 - top-1, points", _drop),
    "agreement": Column("agreement %", "agreement with FP32, %", _metric("quantized/agreement")),
    "sqnr_db": Column("SQNR dB", "SQNR of the logits, dB", _metric("quantized/sqnr_db")),
    "kl": Column("KL nats", "KL divergence from FP32, nats", _metric("quantized/kl"), decimals=4),
    "confidence_change": Column(
        "confidence", "change of FP32's confidence, points", _metric("quantized/confidence_change")
    ),
    "mean_bits": Column("bits", "mean bits of a weight", _metric("bits/mean"), shows_std=False),
    "mib": Column("MiB", "size, MiB", _metric("bits/size_mib"), decimals=3, shows_std=False),
    "seconds": Column("seconds", "time to quantize, seconds", lambda row: seconds(row.metrics), decimals=1),
    "labels": Column("labels", "labels used", _labels, decimals=0, shows_std=False),
    "images": Column("calibration images", "calibration images", _images, decimals=0, shows_std=False),
}
DIFFERENCES = {"difference": ("top1", "top-1, points"), "difference_db": ("sqnr_db", "SQNR, dB")}  # of what; title
INTERVALS = {  # the same; percentages of the evaluation images
    "top1_interval": ("top1", "top-1, 95 %"),
    "agreement_interval": ("agreement", "agreement, 95 %"),
}
