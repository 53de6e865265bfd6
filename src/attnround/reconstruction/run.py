"""Reconstruction in one call."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attnround.graph.capture import Captured
from attnround.quantization.rounding import RoundingMethod
from attnround.reconstruction.callbacks import Logger, LossLog, ReconstructionBar
from attnround.reconstruction.checkpoint import Checkpoint
from attnround.reconstruction.data_free import round_data_free
from attnround.reconstruction.loop import ReconstructionLoop
from attnround.reconstruction.plan import Reconstruction
from attnround.reconstruction.report import UnitReport


def reconstruct(
    teacher: Captured,
    student: Captured,
    images: Tensor,
    quantizer: RoundingMethod,
    settings: Reconstruction,
    *,
    device: torch.device | str = "cpu",
    autocast: bool = False,
    seed: int = 0,
    metrics: Mapping[str, Tensor] | None = None,
    loggers: Sequence[Logger] = (),
    checkpoint: Checkpoint | None = None,
) -> list[UnitReport]:
    """Round the student's weights in place, unit by unit in execution order; return a report for each unit.

    teacher: the float model; student: the same with quantized layers in place, both on the CPU, before and after;
    images: [N, C, H, W], the calibration images; device: what computes; autocast: forward passes in bfloat16;
    metrics: layer name -> the metric of its output, measured here where the settings ask for one and None is given;
    loggers: take the losses; checkpoint: where finished units are written to, and taken up from.
    """
    if quantizer.data_free:
        return round_data_free(teacher, student, quantizer, seed)
    loop = ReconstructionLoop(
        teacher, student, images, quantizer, settings,
        autocast=autocast, seed=seed, metrics=metrics, checkpoint=checkpoint,
        callbacks=[ReconstructionBar(), LossLog(loggers)],
    )  # fmt: skip
    loop.run(device)
    return loop.reports
