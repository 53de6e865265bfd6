"""The task that quantizes a model."""

import dataclasses
import logging
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import nn

from attnround.bits import Allocator, Auto
from attnround.data import ImageData
from attnround.deploy import fingerprint, save
from attnround.evaluation import stored_bytes
from attnround.experiment.card import write_card
from attnround.experiment.comparison import comparison
from attnround.experiment.job import Job
from attnround.experiment.loggers import closing, publish, say
from attnround.experiment.photographs import photographs
from attnround.experiment.pictures import draw_layers, draw_losses, draw_moved, draw_photographs, draw_trials
from attnround.experiment.record import Run, model_of, pack
from attnround.experiment.sharing import sharing
from attnround.experiment.stages import STAGES, prepare, train_with_labels
from attnround.graph import Equalization, beside, left_float
from attnround.machine import peak_mib
from attnround.qat import Lsq, NoTraining
from attnround.quantization.ranges import RangeSearch
from attnround.quantization.rounding import RoundingMethod
from attnround.reconstruction import Reconstruction
from attnround.trainer import TrainerSettings
from attnround.zoo import Blueprint

log = logging.getLogger(__name__)

# the groups whose options tell one run from another
COMPARED = ("model", "quantizer", "bits", "activation", "reconstruction", "qat", "equalization", "experiment")


def quantize(
    *,
    model: Blueprint,
    data: ImageData,
    quantizer: RoundingMethod,
    bits: Allocator | Auto,
    activation: RangeSearch,
    reconstruction: Reconstruction,
    qat: Lsq | NoTraining,
    equalization: Equalization,
    trainer: TrainerSettings,
    seed: int,
    run: Run,
    logger: dict[str, Logger] | None = None,
) -> dict[str, float]:
    """Quantize a model's weights and its layers' inputs, after training or with more of it.

    Print and record how that compares with FP32 and nearest, and with more training, how it compares without.
    """
    begun = time.perf_counter()
    pl.seed_everything(seed, verbose=False)
    job = Job(
        model=model, data=data, quantizer=quantizer, bits=bits, activation=activation, reconstruction=reconstruction,
        qat=qat, trainer=trainer, loggers=list((logger or {}).values()), run=run, equalization=equalization,
    )  # fmt: skip
    metrics = prepare(job)
    with closing(job.loggers, run, COMPARED):
        with sharing(job):
            for stage in STAGES:
                metrics |= stage(job)
        metrics |= train_with_labels(job)
        metrics |= {"time/total_s": time.perf_counter() - begun, "memory/peak_mib": peak_mib()}
        written = report(job, metrics)
    log.info("\n%s\n", comparison(job.method, metrics, len(job.reference), run.choices["qat"]))
    say("record", f"{run.output_dir}: {', '.join(written)}")
    return metrics


def report(job: Job, metrics: dict[str, float]) -> list[str]:
    """Write the model's file, the record, the card and the pictures, and tell the loggers; names of all files."""
    run, folder = job.run, job.run.output_dir
    pictures = draw(job)
    licence = {"weights": job.prepared.teacher.licence, "data": job.data.licence}
    about = {"model": job.prepared.architecture, "method": job.method, "licence": licence}
    deployed = deploy(job.student, run, about)
    correct = {"fp32": job.reference.correct, "quantized": job.quantized.correct}
    allocation = dataclasses.asdict(job.start.allocation)
    record = run.record(
        metrics,
        device=job.trainer.device_name,
        weights=job.prepared.teacher.weights_from,
        num_threads=torch.get_num_threads(),
        calibration=job.calibration.provenance(),
        allocation={key: value for key, value in allocation.items() if key != "score"},
        activation_bits={name: each.bit_width for name, each in job.start.activations.items()},
        left_float=list(
            left_float(beside(job.prepared.teacher, job.student), [each.name for each in job.start.layers])
        ),
        equalized=job.prepared.equalized,
        evaluation={
            "images": len(job.reference),
            "remarks": job.data.remarks(),
            "correct": {name: pack(right.numpy()) for name, right in correct.items() if right is not None},
        },
        licence=licence,
        deployed=deployed,
    )
    write_card(folder, record)
    run.write_record(record)
    files = [folder / name for name in (deployed["file"], "model_card.md", "record.json")]
    publish(job.loggers, metrics, job.rows, pictures, files)
    left = ["reconstruction.pt"] if (folder / "reconstruction.pt").exists() else []
    left += [picture.name for picture in pictures] + (["qat.csv", "qat/"] if job.labelled else [])
    return ["record.json", "allocation.json", "model_card.md", deployed["file"], "layers.csv", *left]


def deploy(student: nn.Module, run: Run, about: dict) -> dict[str, object]:
    """Write quantized.safetensors; what the record says of it: file, bytes, sha256, fingerprint, bytes by kind."""
    about = about | {"data": run.choices["data"], "config_hash": run.identity}
    written = save(student, run.output_dir / "quantized.safetensors", about)
    return written | {"fingerprint": fingerprint(student), "parts": stored_bytes(student)}


def draw(job: Job) -> list[Path]:
    """The run's pictures: losses only where a unit learned, trials where budgets were tried, images of some data."""
    name = model_of(job.run.choices, job.run.config)
    title = f"{name}, {job.method}, {job.start.mean_bits:.2f} bits a weight"
    layers, moved, losses, walk, sheet = (
        job.run.output_dir / f"{name}.png" for name in ("layers", "moved", "losses", "trials", "photos")
    )
    draw_layers(job.rows, layers, title)
    draw_moved(job.rows, moved, title)
    learned = [dataclasses.asdict(report) for report in job.reports if report.losses]
    if learned:
        draw_losses(learned, losses, title)
    trials = job.start.allocation.trials
    if trials:
        draw_trials(trials, walk, title)
    if job.data.is_shown:
        differ = int((job.reference.logits.argmax(1) != job.quantized.logits.argmax(1)).sum())
        what = f"FP32's class, below it the quantized model's; {differ} of {len(job.reference)} differ"
        draw_photographs(photographs(job.data, job.reference, job.quantized), sheet, f"{title}: {what}")
    others = ((losses, learned), (walk, trials), (sheet, job.data.is_shown))
    return [layers, moved, *(picture for picture, drawn in others if drawn)]
