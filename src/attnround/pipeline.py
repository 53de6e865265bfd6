"""The tasks of `src/train.py`: from the parts that its config instantiates to a record in the run's folder."""

import copy
import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from safetensors.torch import save_file
from torch import Tensor, nn

from attnround.bits import Allocation, Allocator, Layer, allocation_json, weight_rate
from attnround.data import HeldOut, ImageData
from attnround.deploy import fingerprint, save, write_card
from attnround.evaluation import Outputs, agreement, evaluate, logit_sqnr_db, logits, size_mib, stored_bytes
from attnround.logs import closing, publish
from attnround.models import QUANTIZABLE, TimmModel, fold_batch_norms, left_float, normed_layers, swap_layers
from attnround.progress import TrainingBar
from attnround.qat import Lsq, NoTraining, Tuned, finetune
from attnround.quantization.ranges import RangeSearch
from attnround.quantization.rounding import Quantizer
from attnround.reconstruction import (
    Checkpoint,
    Reconstruction,
    UnitReport,
    activation_columns,
    attach_activations,
    bit_problem,
    calibrate_activations,
    reconstruct,
)
from attnround.results.plot import draw_layers, draw_losses, draw_moved, draw_trials
from attnround.results.record import Run, peak_mib, write_atomically
from attnround.results.table import comparison, csv_text
from attnround.trainer import TrainerSettings
from attnround.training import Recipe, SupervisedModule

log = logging.getLogger(__name__)
PROBES = 64  # calibration images on which the folded model is compared with the original


def quantize(
    *,
    model: TimmModel,
    data: ImageData,
    quantizer: Quantizer,
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

    teacher = model.build()
    say("model", f"{model.name}, {sum(p.numel() for p in teacher.parameters()) / 1e6:.2f} M parameters")
    data.match(teacher.preprocessing, teacher.num_classes)
    labelled = HeldOut(data, qat.held_out, qat.batch_size) if qat.num_epochs else None
    calibration = data.calibration()
    skipped = f", {len(calibration.skipped)} unreadable files skipped" if calibration.skipped else ""
    say("calibration", f"{len(calibration.images)} images of {calibration.source}, no labels{skipped}")
    unfolded = {
        name: module.weight.detach().clone()
        for name, module in teacher.named_modules()
        if isinstance(module, QUANTIZABLE)
    }
    normed = fold(teacher, calibration.images[:PROBES])

    with closing(loggers, run.config):
        clock = time.perf_counter()
        device = trainer.make().strategy.root_device
        activations = calibrate_activations(teacher, calibration.images, activation, reconstruction.batch_size, device)
        input_bits = {name: each.bit_width for name, each in activations.items()}
        scales_s = time.perf_counter() - clock

        def make_student(allocation: Allocation) -> nn.Module:
            student = swap_layers(teacher, allocation.bit_width, reconstruction.observer)
            attach_activations(student, copy.deepcopy(activations))
            return student

        def trial(allocation: Allocation) -> float:
            """Agreement in percent of a model quantized by this allocation, on the calibration images."""
            student = make_student(allocation)
            reconstruct(teacher, student, calibration.images, quantizer, reconstruction, trainer, seed=seed)
            return agreement(logits(teacher, calibration.images), logits(student, calibration.images))

        problem = bit_problem(teacher, calibration.images, reconstruction.observer, input_bits, unfolded, seed)
        clock = time.perf_counter()
        allocation = bits.allocate(dataclasses.replace(problem, agreement=trial))
        allocation_s = time.perf_counter() - clock
        layers, mean_bits = problem.layers, allocation.mean_bits(problem.layers)
        basis = f" by {allocation.convention}" if allocation.convention else ""
        say("bits", f"{run.choices['bits']}, {mean_bits:.3f} a weight over {len(layers)} layers{basis}")
        say("bits", f"found in {allocation_s:.1f} s{allocation.budget and f'; {allocation.budget}'}")
        write_atomically(run.output_dir / "allocation.json", allocation_json(allocation, layers))
        clock = time.perf_counter()
        student = make_student(allocation)
        scales_s += time.perf_counter() - clock
        inputs = f", inputs at {activation.bit_width} bits by {run.choices['activation']}" if activations else ""
        say("scales", f"found in {scales_s:.1f} s{inputs}")
        rounded = copy.deepcopy(student) if labelled and qat.start == "fp32" else student
        reference = evaluate(teacher, data, trainer, "fp32")
        nearest = evaluate(student, data, trainer, "nearest")
        say("evaluate", f"{len(reference.labels)} images: fp32 {reference.top1:.2f} %, nearest {nearest.top1:.2f} %")
        checkpoint = Checkpoint(run.output_dir / "reconstruction.pt", run.identity)
        if run.config["resume"]:
            say("resume", f"{len(checkpoint.restore(student))} finished units of {checkpoint.path}")
        else:
            checkpoint.path.unlink(missing_ok=True)  # an earlier run's, in a folder given twice
        reports, reconstruction_s = reconstruct(
            teacher, student, calibration.images, quantizer, reconstruction, trainer, loggers, seed, checkpoint
        )
        fallbacks = sum(not report.kept for report in reports)
        worse = f", {fallbacks} of {len(reports)} units kept their start, which was better" if fallbacks else ""
        say("reconstruct", f"{method} in {reconstruction_s:.1f} s{worse}")
        quantized = evaluate(student, data, trainer, method)
        rows = [row | activation_columns(student, row["name"]) for row in layer_rows(reports, layers, allocation)]

        training = {}
        if labelled:
            training = compare("ptq", quantized, reference)
            tuned = finetune(
                teacher, rounded, labelled, calibration.images, normed, qat, trainer, run.output_dir / "qat",
                loggers, run.identity, bool(run.config["resume"]),
            )  # fmt: skip
            student = tuned.student
            quantized = evaluate(student, data, trainer, "qat")
            training |= report_training(tuned, labelled, run)

        metrics = {
            "fp32/top1": reference.top1,
            "fp32/size_mib": size_mib(teacher),
            **compare("nearest", nearest, reference),
            **compare("quantized", quantized, reference),
            "reconstruction/fallbacks": fallbacks,
            "bits/mean": mean_bits,
            "bits/size_mib": size_mib(student),
            "time/allocation_s": allocation_s,
            "time/scales_s": scales_s,
            "time/reconstruction_s": reconstruction_s,
            **training,
            "time/total_s": time.perf_counter() - begun,
            "memory/peak_mib": peak_mib(),
        }
        write_atomically(run.output_dir / "layers.csv", csv_text(rows))
        pictures = draw(
            rows, reports, run.output_dir, f"{run.choices['model']}, {method}, {mean_bits:.2f} bits a weight"
        )
        if allocation.trials:
            pictures.append(run.output_dir / "trials.png")
            draw_trials(allocation.trials, pictures[-1], f"{run.choices['model']}, {run.choices['bits']}, {method}")
        licence = {"weights": teacher.licence, "data": data.licence}
        deployed = deploy(student, run, {"model": model.architecture(teacher), "method": method, "licence": licence})
        publish(loggers, metrics, rows, pictures)
        run.write_record(
            metrics,
            device=trainer.device_name,
            num_threads=torch.get_num_threads(),
            calibration=calibration.provenance(),
            allocation={key: value for key, value in dataclasses.asdict(allocation).items() if key != "score"},
            activation_bits=input_bits,
            left_float=left_float(teacher, [layer.name for layer in layers]),
            evaluation={"images": len(reference.labels)},
            licence=licence,
            deployed=deployed,
        )
        write_card(run.output_dir)
    log.info("\n%s\n", comparison(method, metrics, run.choices["qat"]))
    files = ["record.json", "allocation.json", "model_card.md", deployed["file"], "layers.csv"]
    files += [*(picture.name for picture in pictures), checkpoint.path.name, *(["qat.csv", "qat/"] if labelled else [])]
    say("record", f"{run.output_dir}: {', '.join(files)}")
    return metrics


def pretrain(
    *,
    model: TimmModel,
    data: ImageData,
    training: Recipe,
    trainer: TrainerSettings,
    logger: dict[str, Logger],
    seed: int,
    run: Run,
) -> dict[str, float]:
    """Train a float model with labels; write its weights as model.safetensors."""
    begun = time.perf_counter()
    pl.seed_everything(seed, verbose=False)
    loggers = list(logger.values())
    net = model.build().to(memory_format=torch.channels_last).train()  # up to twice as fast on a CPU
    say("model", f"{model.name}, {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters")
    data.match(net.preprocessing, net.num_classes)
    with closing(loggers, run.config):
        fit = trainer.make(max_epochs=training.num_epochs, logger=loggers, callbacks=[TrainingBar()])
        fit.fit(SupervisedModule(net, training), datamodule=data)
        outputs = evaluate(net.eval(), data, trainer, "fp32")
        metrics = {
            "fp32/top1": outputs.top1,
            "time/total_s": time.perf_counter() - begun,
            "memory/peak_mib": peak_mib(),
        }
        weights = {key: value.contiguous() for key, value in net.state_dict().items()}
        save_file(weights, run.output_dir / "model.safetensors.part")
        (run.output_dir / "model.safetensors.part").rename(run.output_dir / "model.safetensors")
        publish(loggers, metrics, [], [])
        run.write_record(metrics, device=trainer.device_name, num_threads=torch.get_num_threads())
    say("evaluate", f"{len(outputs.labels)} images: fp32 {outputs.top1:.2f} %")
    say("record", f"{run.output_dir}: record.json, model.safetensors")
    return metrics


def say(stage: str, text: str) -> None:
    """One line per stage."""
    log.info("%-12s %s", stage, text)


def fold(model: nn.Module, probes: Tensor) -> list[str]:
    """Fold the batch norms and say how little that changed the outputs; return the names of the layers they went to."""
    normed = normed_layers(model)
    with torch.no_grad():
        before = model(probes)
        folded, left = fold_batch_norms(model)
        difference = ((model(probes) - before).abs().max() / before.abs().max()).item()
    kept = f", {len(left)} stay float ({', '.join(left)})" if left else ""
    say("fold", f"{len(folded)} batch norms{kept}; largest relative change of a logit {difference:.0e}")
    return normed


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


def layer_rows(reports: list[UnitReport], layers: Sequence[Layer], allocation: Allocation) -> list[dict]:
    """A row for each layer, of the last unit that had it in.

    Its coding length is that of its weight alone; its score is what the allocator went by, if by any.
    """
    rows = {row["name"]: row for report in reports for row in report.rows()}
    return [
        rows[layer.name] | {"coding_length": weight_rate(layer.weight), "score": allocation.score.get(layer.name)}
        for layer in layers
    ]


def draw(rows: list[dict], reports: list[UnitReport], folder: Path, title: str) -> list[Path]:
    """The run's pictures; losses only where a unit learned."""
    layers, moved, losses = (folder / f"{name}.png" for name in ("layers", "moved", "losses"))
    draw_layers(rows, layers, title)
    draw_moved(rows, moved, title)
    learned = [dataclasses.asdict(report) for report in reports if report.losses]
    if not learned:
        return [layers, moved]
    draw_losses(learned, losses, title)
    return [layers, moved, losses]
