"""What a row can be asked for: its run's metrics by name, short names for those in use, and what an axis calls them."""

from attnround.results.row import Row

LABELS = {
    "quantized/top1": "top-1, %",
    "quantized/agreement": "agreement with FP32, %",
    "quantized/sqnr_db": "SQNR of the logits, dB",
    "drop": "FP32 - top-1, points",
    "seconds": "time to quantize, seconds",
    "bits/mean": "mean bits of a weight",
    "bits/size_mib": "size, MiB",
    "nearest/top1": "top-1 of nearest, %",
    "nearest/agreement": "agreement of nearest with FP32, %",
    "nearest/sqnr_db": "SQNR of nearest, dB",
    "ptq/top1": "top-1 of PTQ, %",
    "ptq/agreement": "agreement of PTQ with FP32, %",
    "ptq/sqnr_db": "SQNR of PTQ, dB",
    "fp32/top1": "top-1 of FP32, %",
    "time/allocation_s": "allocation, seconds",
    "time/scales_s": "scales, seconds",
    "time/reconstruction_s": "reconstruction, seconds",
    "time/qat_s": "QAT, seconds",
    "time/total_s": "whole run, seconds",
    "qat/labels": "labels used by QAT",
    "qat/images": "images used by QAT",
    "memory/peak_mib": "peak memory, MiB",
}
SHORT = {
    "top1": "quantized/top1",
    "agreement": "quantized/agreement",
    "sqnr_db": "quantized/sqnr_db",
    "mean_bits": "bits/mean",
    "mib": "bits/size_mib",
    "labels": "qat/labels",
}
STAGES = ("time/allocation_s", "time/scales_s", "time/reconstruction_s", "time/qat_s")  # all but the evaluation


def value(row: Row, name: str) -> float | None:
    """A metric of a row, by its name in LABELS; None where the run failed or has no such stage."""
    if row.error is not None:
        return None
    metrics = row.metrics
    if name == "drop":
        fp32, quantized = metrics.get("fp32/top1"), metrics.get("quantized/top1")
        return None if None in (fp32, quantized) else fp32 - quantized
    if name == "seconds":
        times = [metrics[stage] for stage in STAGES if stage in metrics]
        return sum(times) if times else None
    return metrics.get(name)
