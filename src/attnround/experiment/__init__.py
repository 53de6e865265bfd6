"""One run: its task and stages, its identity and record, its loggers, pictures and card."""

import importlib
from collections.abc import Callable

from attnround.errors import InputError

TASKS = {
    "quantize": "attnround.experiment.quantizing:quantize",
    "pretrain": "attnround.experiment.pretraining:pretrain",
    "evaluate": "attnround.experiment.checks:evaluate_file",
    "verify": "attnround.experiment.verifying:verify",
    "export": "attnround.experiment.exporting:export",
}
_COMPARED = ("top1", "agreement", "sqnr_db", "kl", "confidence_change")
METRICS = {  # task -> what its runs may be judged by
    "quantize": (
        *(f"{name}/{key}" for name in ("nearest", "ptq", "quantized") for key in _COMPARED),
        "fp32/top1", "fp32/size_mib", "reconstruction/fallbacks", "bits/mean", "bits/size_mib",
        "qat/epochs", "qat/images", "qat/labels", "time/allocation_s", "time/scales_s", "time/reconstruction_s",
        "time/qat_s", "time/total_s", "memory/peak_mib",
    ),
    "pretrain": ("fp32/top1", "time/total_s", "memory/peak_mib"),
    "evaluate": tuple(f"quantized/{key}" for key in _COMPARED),
    "verify": ("agreement",),
    "export": ("agreement",),
}  # fmt: skip
OF_QAT = ("ptq/", "qat/", "time/qat_s")  # how those metrics begin that a run has which was trained with labels
JUDGED_BY = {  # task -> what its runs return where nothing is asked for: the first of these that they have
    "quantize": ("quantized/top1", "quantized/agreement"),
    "pretrain": ("fp32/top1",),
    "evaluate": ("quantized/top1", "quantized/agreement"),
    "verify": ("agreement",),
    "export": ("agreement",),
}


def task_of(name: str) -> Callable[..., dict[str, float]]:
    """The function of a task; it takes the config groups that its signature names, and returns metrics.

    Raises InputError where there is no such task.
    """
    if name not in TASKS:
        raise InputError(f"task={name}: give one of {', '.join(TASKS)}")
    module, function = TASKS[name].split(":")
    return getattr(importlib.import_module(module), function)
