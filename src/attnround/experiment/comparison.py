"""What a run found, as a table: top-1 where there are labels, else how closely FP32 is followed."""

from attnround.evaluation.interval import wilson
from attnround.table import text_table

TOP1 = ["top-1 %", "agreement %", "SQNR dB"]
FIDELITY = ["agreement %", "95 % interval", "SQNR dB", "KL nats", "confidence"]


def comparison(method: str, metrics: dict[str, float], num_images: int, training: str = "none") -> str:
    """The table a run ends with: FP32, rounding to nearest at the same bits, the chosen method.

    Without labels there is no top-1, but all that compares a model with FP32. training: what was trained with labels
    after that, which then has a row of its own.
    """
    header = TOP1 if "fp32/top1" in metrics else FIDELITY
    fp32 = [f"{metrics['fp32/top1']:.2f}", None, None] if header is TOP1 else [None] * len(FIDELITY)
    rows = [["fp32", *fp32, "32", f"{metrics['fp32/size_mib']:.2f}", None]]
    scales_s, reconstruction_s = metrics["time/scales_s"], metrics["time/reconstruction_s"]
    trained = "time/qat_s" in metrics
    stages = [
        ("nearest", "nearest", scales_s),
        ("ptq" if trained else "quantized", method, scales_s + reconstruction_s),
    ]
    if trained:
        stages.append(("quantized", training, metrics["time/qat_s"]))
    for name, label, seconds in stages:
        shown = fidelity_cells(name, metrics, num_images)
        cells = [f"{metrics[f'{name}/top1']:.2f}", shown[0], shown[2]] if header is TOP1 else shown
        size = [f"{metrics['bits/mean']:.2f}", f"{metrics['bits/size_mib']:.2f}"]
        rows.append([label, *cells, *size, f"{seconds:.1f}"])
    return text_table(["", *header, "bits", "MiB", "seconds"], rows)


def fidelity_cells(name: str, metrics: dict[str, float], num_images: int) -> list[str]:
    """The cells under `FIDELITY` of nearest, ptq or quantized; a dash where it was not measured.

    >>> fidelity_cells("ptq", {"ptq/agreement": 90.0, "ptq/kl": 0.01234, "ptq/confidence_change": -0.004}, 99)
    ['90.00', '82.52 to 94.49', '-', '0.0123', '+0.00']
    """
    agreement = metrics[f"{name}/agreement"]
    kl = metrics.get(f"{name}/kl")
    sqnr_db, confidence = (metrics.get(f"{name}/{key}") for key in ("sqnr_db", "confidence_change"))
    return [
        f"{agreement:.2f}",
        interval(agreement, num_images),
        "-" if sqnr_db is None else f"{sqnr_db:.2f}",
        "-" if kl is None else f"{kl:.3g}",
        "-" if confidence is None else f"{round(confidence, 2) + 0.0:+.2f}",
    ]


def interval(percent: float, num_images: int) -> str:
    """The 95 % interval (Wilson) of what was counted on so many images.

    >>> interval(94.04, 10_000)
    '93.56 to 94.49'
    """
    low, high = wilson(percent, num_images)
    return f"{low:.2f} to {high:.2f}"
