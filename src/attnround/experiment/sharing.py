"""A run on several devices: a process for each takes its part of the images, from the ranges to the evaluation."""

import contextlib
import copy
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytorch_lightning as pl
from torch import nn

from attnround.crew import crew
from attnround.data import ImageData
from attnround.evaluation import Outputs, evaluate_together
from attnround.experiment.job import Job
from attnround.experiment.loggers import say
from attnround.experiment.stages import STAGES
from attnround.files import WITHOUT_LABELS
from attnround.trainer import TrainerSettings


@contextlib.contextmanager
def sharing(job: Job) -> Iterator[None]:
    """Within, the job's other devices, if it has any, take part in each of `STAGES` that this process comes to.

    This process alone speaks and writes.
    """
    num_devices = job.trainer.num_devices
    if num_devices > 1 and not job.reconstruction.by_moments:
        say("devices", "blocks learn from mini-batches of all images, on one device")
        num_devices = 1
    if num_devices > 1:
        say("devices", f"{num_devices} processes share the images")
    other = copy.copy(job)
    other.loggers, other.labelled = [], None
    hint = f"resume={job.run.output_dir} goes on from the last finished unit"
    with crew(job.trainer.accelerator, num_devices, take_part, other, hint=hint):
        yield


def evaluate_each(models: Mapping[str, nn.Module], data: ImageData, trainer: TrainerSettings) -> list[Outputs]:
    """What each of these models, by name, gives for the evaluation set, on all the devices."""
    with crew(trainer.accelerator, trainer.num_devices, evaluate_together, models, data, trainer):
        return evaluate_together(models, data, trainer)


def take_part(job: Job) -> None:
    """Go through the stages as the first process does, with the same checkpoints, in a folder of its own."""
    pl.seed_everything(job.run.seed, verbose=False)
    with tempfile.TemporaryDirectory(prefix="attnround-") as place:
        for name in WITHOUT_LABELS:
            kept = job.run.output_dir / name
            if job.run.resume and kept.is_file():
                shutil.copy(kept, place)
        job.run = dataclasses.replace(job.run, output_dir=Path(place))
        for stage in STAGES:
            stage(job)
