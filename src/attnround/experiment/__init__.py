"""One run: its task and stages, its identity and record, its loggers, pictures and card."""

import importlib
from collections.abc import Callable

from attnround.errors import InputError

TASKS = {
    "quantize": "attnround.experiment.quantizing:quantize",
    "pretrain": "attnround.experiment.pretraining:pretrain",
    "evaluate": "attnround.experiment.checks:evaluate_file",
    "verify": "attnround.experiment.checks:verify",
    "export": "attnround.experiment.exporting:export",
}


def task_of(name: str) -> Callable[..., dict[str, float]]:
    """The function of a task; it takes the config groups that its signature names, and returns metrics.

    Raises InputError where there is no such task.
    """
    if name not in TASKS:
        raise InputError(f"task={name}: give one of {', '.join(TASKS)}")
    module, function = TASKS[name].split(":")
    return getattr(importlib.import_module(module), function)
