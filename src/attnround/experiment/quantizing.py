"""The task that quantizes a model."""

import copy
import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import nn

from attnround.bits import Allocation, Allocator, Layer, weight_rate
from attnround.calibration import activation_columns
from attnround.data import HeldOut, ImageData
from attnround.deploy import fingerprint, save
from attnround.evaluation import Outputs, agreement, evaluate, logit_sqnr_db, size_mib, stored_bytes
from attnround.experiment.card import write_card
from attnround.experiment.loggers import closing, publish, say
from attnround.experiment.pictures import draw_layers, draw_losses, draw_moved, draw_trials
from attnround.experiment.record import Run, model_of, pack
from attnround.experiment.stages import prepare, round_weights, start
from attnround.files import write_atomically
from attnround.graph import left_float
from attnround.machine import peak_mib
from attnround.qat import Lsq, NoTraining, Tuned, finetune
from attnround.quantization.ranges import RangeSearch
from attnround.quantization.rounding import RoundingMethod
from attnround.reconstruction import Reconstruction, UnitReport, reconstruct
from attnround.table import comparison, csv_text
from attnround.trainer import TrainerSettings
from attnround.zoo import TimmModel

log = logging.getLogger(__name__)

# the groups whose options tell one run from another
COMPARED = ("model", "quantizer", "bits", "activation", "reconstruction", "qat", "experiment")


def quantize(
    *,
    model: TimmModel,
    data: ImageData,
    quantizer: RoundingMethod,
    bits: Allocator,
    activation: RangeSearch,
    reconstruction: Reconstruction,
    qat: Lsq | NoTraining,
    trainer: TrainerSettings,
    logger: dict[str, Logger],
    seed: int,
    run: Run,
) -> dict[str, float]:
    """Quantize a model's weights and its layers' inputs, after training or with more of it.

    Print and record how that compares with FP32 and nearest, and with more training, how it compares without.
    """
    begun = time.perf_counter()
    pl.seed_everything(seed, verbose=False)
    method, loggers = run.choices["quantizer"], list(logger.values())
    prepared, calibration = prepare(model, data)
    teacher, images = prepared.teacher, prepared.images
    labelled = HeldOut(data, qat.held_out, qat.batch_size) if qat.num_epochs else None

    def reconstructed(student: nn.Module) -> object:
        return reconstruct(
            teacher, student, images, quantizer, reconstruction,
            device=trainer.device, autocast=trainer.autocast, seed=seed,
        )  # fmt: skip

    with closing(loggers, run, COMPARED):
        begin = start(prepared, bits, activation, reconstruction, trainer, reconstructed, run)
        student, allocation = begin.student, begin.allocation
        rounded = copy.deepcopy(student) if labelled and qat.start == "fp32" else student
        reference = evaluate(teacher, data, trainer, "fp32")
        nearest = evaluate(student, data, trainer, "nearest")
        say("evaluate", f"{len(reference.labels)} images: fp32 {reference.top1:.2f} %, nearest {nearest.top1:.2f} %")
        reports, reconstruction_s = round_weights(prepared, student, quantizer, reconstruction, trainer, loggers, run)
        quantized = evaluate(student, data, trainer, method)
        rows = layer_rows(reports, begin.layers, allocation, student)

        training = {}
        if labelled:
            training = compare("ptq", quantized, reference)
            tuned = finetune(
                teacher, rounded, labelled, images, prepared.norms, qat, trainer, run.output_dir / "qat",
                loggers, run.identity, run.resume,
            )  # fmt: skip
            student = tuned.student
            quantized = evaluate(student, data, trainer, "qat")
            training |= report_training(tuned, labelled, run)

        metrics = {
            "fp32/top1": reference.top1,
            "fp32/size_mib": size_mib(teacher),
            **compare("nearest", nearest, reference),
            **compare("quantized", quantized, reference),
            "reconstruction/fallbacks": sum(not report.kept for report in reports),
            "bits/mean": begin.mean_bits,
            "bits/size_mib": size_mib(student),
            "time/allocation_s": begin.allocation_s,
            "time/scales_s": begin.scales_s,
            "time/reconstruction_s": reconstruction_s,
            **training,
            "time/total_s": time.perf_counter() - begun,
            "memory/peak_mib": peak_mib(),
        }
        write_atomically(run.output_dir / "layers.csv", csv_text(rows))
        pictures = draw(rows, reports, allocation.trials, begin.mean_bits, run)
        licence = {"weights": teacher.licence, "data": data.licence}
        deployed = deploy(student, run, {"model": prepared.architecture, "method": method, "licence": licence})
        run.write_record(
            metrics,
            device=trainer.device_name,
            weights=teacher.weights_from,
            num_threads=torch.get_num_threads(),
            calibration=calibration.provenance(),
            allocation={key: value for key, value in dataclasses.asdict(allocation).items() if key != "score"},
            activation_bits={name: each.bit_width for name, each in begin.activations.items()},
            left_float=list(left_float(teacher, [layer.name for layer in begin.layers])),
            evaluation={
                "images": len(reference.labels),
                "remarks": data.remarks(),
                "correct": {"fp32": pack(reference.correct.numpy()), "quantized": pack(quantized.correct.numpy())},
            },
            licence=licence,
            deployed=deployed,
        )
        write_card(run.output_dir)
        files = [run.output_dir / name for name in (deployed["file"], "model_card.md", "record.json")]
        publish(loggers, metrics, rows, pictures, files)
    log.info("\n%s\n", comparison(method, metrics, run.choices["qat"]))
    written = ["record.json", "allocation.json", "model_card.md", deployed["file"], "layers.csv"]
    written += ["reconstruction.pt"] if (run.output_dir / "reconstruction.pt").exists() else []
    written += [picture.name for picture in pictures] + (["qat.csv", "qat/"] if labelled else [])
    say("record", f"{run.output_dir}: {', '.join(written)}")
    return metrics


def deploy(student: nn.Module, run: Run, about: dict) -> dict[str, object]:
    """Write quantized.safetensors; what the record says of it: file, bytes, sha256, fingerprint, bytes by kind."""
    about = about | {"data": run.choices["data"], "config_hash": run.identity}
    written = save(student, run.output_dir / "quantized.safetensors", about)
    return written | {"fingerprint": fingerprint(student), "parts": stored_bytes(student)}


def compare(name: str, outputs: Outputs, reference: Outputs) -> dict[str, float]:
    """top1 and agreement with the reference in percent, logit SQNR in dB."""
    return {
        f"{name}/top1": outputs.top1,
        f"{name}/agreement": agreement(reference.logits, outputs.logits),
        f"{name}/sqnr_db": logit_sqnr_db(reference.logits, outputs.logits),
    }


def report_training(tuned: Tuned, data: HeldOut, run: Run) -> dict[str, float]:
    """Write the curve of a training with labels as qat.csv; its costs."""
    write_atomically(run.output_dir / "qat.csv", csv_text(tuned.curve))
    best = tuned.curve[tuned.best]
    say(
        "qat", f"{len(tuned.curve)} epochs in {tuned.seconds:.1f} s, held out {best['held_out_top1']:.2f} % at its best"
    )
    return {
        "qat/epochs": len(tuned.curve),
        "qat/images": len(tuned.curve) * data.images_an_epoch,
        "qat/labels": len(data.training) + len(data.held_out),
        "time/qat_s": tuned.seconds,
    }


def layer_rows(
    reports: list[UnitReport], layers: Sequence[Layer], allocation: Allocation, student: nn.Module
) -> list[dict]:
    """A row for each layer, of the last unit that had it in.

    Its coding length is that of its weight alone; its score is what the allocator went by, if by any.
    """
    rows = {row["name"]: row for report in reports for row in report.rows()}
    return [
        rows[layer.name]
        | {"coding_length": weight_rate(layer.weight), "score": allocation.score.get(layer.name)}
        | activation_columns(student, layer.name)
        for layer in layers
    ]


def draw(rows: list[dict], reports: list[UnitReport], trials: list[dict], mean_bits: float, run: Run) -> list[Path]:
    """The run's pictures; losses only where a unit learned, trials where budgets were tried."""
    title = f"{model_of(run.choices, run.config)}, {run.choices['quantizer']}, {mean_bits:.2f} bits a weight"
    layers, moved, losses, walk = (run.output_dir / f"{name}.png" for name in ("layers", "moved", "losses", "trials"))
    draw_layers(rows, layers, title)
    draw_moved(rows, moved, title)
    learned = [dataclasses.asdict(report) for report in reports if report.losses]
    if learned:
        draw_losses(learned, losses, title)
    if trials:
        draw_trials(trials, walk, title)
    return [layers, moved, *([losses] if learned else []), *([walk] if trials else [])]
