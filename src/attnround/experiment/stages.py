"""The stages of a quantization: each goes on from what those before it found, says its line and returns its metrics."""

import copy
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from attnround.bits import Allocation, Auto, Layer, allocation_json, weight_rate
from attnround.calibration import activation_columns
from attnround.calibration.sensitivity import logits
from attnround.data import HeldOut, ImageData
from attnround.errors import InputError, listed
from attnround.evaluation import Outputs, evaluate, evaluate_together, fidelity, size_mib
from attnround.experiment.job import Job
from attnround.experiment.kept import check_kept
from attnround.experiment.loggers import kept_starts, say
from attnround.experiment.record import Run
from attnround.experiment.trials import Trials
from attnround.files import write_atomically
from attnround.graph import Captured, Equalization, captured
from attnround.prepared import NO_EQUALIZATION, Prepared, Start, start, start_at_smallest
from attnround.qat import finetune
from attnround.quantization.observer import sqnr_db
from attnround.ranks import checksum
from attnround.reconstruction import Checkpoint, UnitReport, reconstruct
from attnround.reconstruction.lightning import fit_reconstruction
from attnround.table import csv_text

log = logging.getLogger(__name__)

PROBES = 64  # calibration images on which the folded model is compared with the original
HUGE = 1e6  # a logit: a softmax is decided by differences of some tens
DWARFED = 1e6  # times the median channel
LOST_DB = 1.0  # of a weight; with zeros in its place it has 0 dB

Metrics = dict[str, float]


def prepare(job: Job) -> Metrics:
    """Build, capture and fold the float model, and draw its calibration images."""
    _, num_devices = job.trainer.device, job.trainer.num_devices  # what cannot be is said before anything is computed
    if job.run.resume and not job.run.goes_on:
        finished = (job.run.output_dir / "record.json").exists()
        why = "holds a finished run and no checkpoint" if finished else "had not come to a checkpoint"
        say("resume", f"{job.run.output_dir} {why}: it starts from the beginning")
    if not job.quantizer.data_free:
        job.reconstruction.adapt(job.quantizer)
    teacher = captured(job.model.build())
    say("model", f"{job.model.called}, {sum(p.numel() for p in teacher.parameters()) / 1e6:.2f} M parameters")
    say("weights", teacher.weights_from)
    job.data.match(teacher.preprocessing, teacher.num_classes)
    check_labels(job.data, job.run)
    job.labelled = HeldOut(job.data, job.qat.held_out, job.qat.batch_size) if job.qat.num_epochs else None
    if job.labelled:
        job.labelled.check_shared(num_devices)
    job.calibration = job.data.calibration()
    skipped = f", {len(job.calibration.skipped)} unreadable files skipped" if job.calibration.skipped else ""
    say("calibration", f"{len(job.calibration.images)} images of {job.calibration.source}, no labels{skipped}")
    for remark in teacher.remarks:
        say("model", remark)
    job.material = f"{checksum(*teacher.state_dict().values(), job.calibration.images):08x}"
    if job.run.resume:
        check_kept(job.run.output_dir, job.going_on)
    job.prepared = fold(teacher, job.calibration.images, job.model.architecture(teacher), job.equalization)
    job.calibration = dataclasses.replace(job.calibration, images=job.prepared.images)  # of the two copies one
    return {}


def check_labels(data: ImageData, run: Run) -> None:
    """Raise InputError where top-1 is asked for of images that have no labels."""
    metric = run.config.get("metric")
    if metric and metric.endswith("/top1") and not data.has_labels:
        raise InputError(
            f"metric={metric}: data={run.choices['data']} has no labels, so that top-1 is not known: give "
            "data.labels=<CSV: image, index of its class> or metric=quantized/agreement"
        )


def fold(
    model: Captured,
    images: Tensor,
    architecture: dict[str, object],
    equalization: Equalization = NO_EQUALIZATION,
) -> Prepared:
    """Fold the batch norms, equalize if asked, and say how little that changed the outputs.

    Raises InputError where the float model's logits are not finite.
    """
    probes = images[:PROBES]
    with torch.no_grad():
        before = logits(model, probes)
        broken = int((~before.isfinite()).flatten(1).any(1).sum())
        if broken:
            raise InputError(
                f"{broken} of the {len(probes)} probe images give logits that are not finite: check the checkpoint's "
                "weights and the preprocessing of the images"
            )
        prepared = Prepared.of_captured(model, images, architecture, equalization)
        difference = ((logits(model, probes) - before).abs().max() / before.abs().max()).item()
    if prepared.equalized is not None:
        say("equalize", prepared.equalized)
    kept = f", {len(prepared.left)} stay float ({', '.join(prepared.left)})" if prepared.left else ""
    say("fold", f"{len(prepared.folded)} batch norms{kept}; largest relative change of a logit {difference:.0e}")
    if (largest := before.abs().max().item()) > HUGE:
        log.warning(
            "%-12s logits reach %.0e: a weight of the checkpoint is broken, or the preprocessing", "fold", largest
        )
    return prepared


def find_start(job: Job) -> Metrics:
    """Find the bits and the scales; write allocation.json. The student is rounded to nearest then."""
    if isinstance(job.bits, Auto):
        found = _start_at_smallest(job, job.bits)
    else:
        found = start(
            job.prepared, job.bits, job.activation, job.reconstruction, device=job.trainer.device, seed=job.run.seed
        )
        job.run.clear()
    allocation = found.allocation
    write_atomically(job.run.output_dir / "allocation.json", allocation_json(allocation, found.layers))
    warn_of_lost(found.student, found.layers)
    basis = f" by {allocation.convention}" if allocation.convention else ""
    say("bits", f"{job.run.choices['bits']}, {found.mean_bits:.3f} a weight over {len(found.layers)} layers{basis}")
    say("bits", f"found in {found.allocation_s:.1f} s{allocation.budget and f'; {allocation.budget}'}")
    inputs = f", inputs at {job.activation.bit_width} bits by {job.run.choices['activation']}"
    say("scales", f"found in {found.scales_s:.1f} s{inputs if found.activations else ''}")
    job.start, job.student = found, found.student
    job.untrained = copy.deepcopy(found.student) if job.labelled and job.qat.start == "fp32" else found.student
    return {
        "bits/mean": found.mean_bits,
        "time/allocation_s": found.allocation_s,
        "time/scales_s": found.scales_s,
    }


def _start_at_smallest(job: Job, bits: Auto) -> Start:
    """Each budget that is tried is kept on disk, and those of a run that was killed are not tried again.

    What an earlier run left in the folder goes as soon as the first budget, the highest, shows that this one can be.
    """
    run = job.run
    kept = Trials(run.output_dir / "trials.json", job.going_on)
    known = kept.read() if run.resume else []
    if known:
        say("resume", f"{len(known)} budgets of {kept.path} were tried")
        run.clear()

    def tried(trials: Sequence[dict[str, float]]) -> None:
        if not bits.accepts(trials[0]["agreement"]):
            return
        if len(trials) == 1:
            run.clear()
        kept.write(trials)

    return start_at_smallest(
        job.prepared, bits, job.activation, job.reconstruction, device=job.trainer.device, seed=run.seed,
        rounded=_rounded_alone(job), known=known, tried=tried,
    )  # fmt: skip


def _rounded_alone(job: Job) -> Callable[[Captured], list[UnitReport]]:
    """What rounds a student as the run will, for a budget that is tried."""

    def rounded(student: Captured) -> list[UnitReport]:
        return reconstruct(
            job.prepared.teacher, student, job.prepared.images, job.quantizer, job.reconstruction,
            device=job.trainer.device, autocast=job.trainer.autocast, seed=job.run.seed, metrics=output_metrics(job),
        )  # fmt: skip

    return rounded


def output_metrics(job: Job) -> dict[str, Tensor]:
    """Layer name -> the metric of its output, as the reconstruction wants it."""
    if job.quantizer.data_free:
        return {}
    return job.prepared.output_metrics(job.reconstruction.metric, job.run.seed, job.trainer.device)


def warn_of_lost(student: nn.Module, layers: Sequence[Layer]) -> None:
    """Warn of layers whose weights are next to lost: no scale keeps a channel's largest weight and the others.

    Also of those with a channel that dwarfs the others, in which a single broken weight may be all that counts.
    """
    lost = []
    for layer in layers:
        kept = sqnr_db(layer.weight, student.get_submodule(layer.name).layer.weight)
        channels = layer.weight.double().flatten(1)  # in float32 the square of 1e30 is infinite
        peaks = channels.abs().amax(1)
        if kept < LOST_DB:
            largest = (peaks.max() / channels.square().mean().sqrt()).item()
            lost.append(f"{layer.name} ({kept:.1f} dB, largest weight {largest:.0f} times the rms)")
        elif peaks.max() > DWARFED * peaks.median() > 0:
            ratio = (peaks.max() / peaks.median()).item()
            lost.append(f"{layer.name} (largest weight {ratio:.0e} times that of a usual channel)")
    if lost:
        text = "the scales found lose nearly all of {}; check the checkpoint, or give more bits by bits.pinned"
        log.warning("%-12s %s", "scales", text.format(listed(lost)))


def evaluate_start(job: Job) -> Metrics:
    """The float model and the one rounded to nearest, on the evaluation images."""
    models = {"fp32": job.prepared.teacher, "nearest": job.student}
    job.reference, job.nearest = evaluate_together(models, job.data, job.trainer)
    fp32, found = job.reference.top1, compare("nearest", job.nearest, job.reference)
    if fp32 is None:
        say("evaluate", f"{len(job.reference)} images: nearest agrees with fp32 on {found['nearest/agreement']:.2f} %")
    else:
        say("evaluate", f"{len(job.reference)} images: fp32 {fp32:.2f} %, nearest {job.nearest.top1:.2f} %")
    top1 = {} if fp32 is None else {"fp32/top1": fp32}
    return top1 | {"fp32/size_mib": size_mib(job.prepared.teacher)} | found


def round_weights(job: Job) -> Metrics:
    """Reconstruct the student in place, from its last finished unit where the run goes on."""
    run = job.run
    checkpoint = Checkpoint(run.output_dir / "reconstruction.pt", job.going_on)
    if run.resume and checkpoint.path.exists():
        say("resume", f"{len(checkpoint.restore(job.student))} finished units of {checkpoint.path}")
    begun = time.perf_counter()
    job.reports = fit_reconstruction(
        job.prepared.teacher, job.student, job.prepared.images, job.quantizer, job.reconstruction, job.trainer,
        seed=run.seed, metrics=output_metrics(job), loggers=job.loggers, checkpoint=checkpoint,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    fallbacks = sum(not report.kept for report in job.reports)
    held_out = int(job.reconstruction.held_out * len(job.prepared.images)) > 0
    say("reconstruct", f"{job.method} in {seconds:.1f} s{kept_starts(job.reports, held_out)}")
    job.rows = layer_rows(job)
    write_atomically(run.output_dir / "layers.csv", csv_text(job.rows))
    return {"reconstruction/fallbacks": fallbacks, "time/reconstruction_s": seconds}


def evaluate_quantized(job: Job) -> Metrics:
    """The quantized model, on the evaluation images."""
    job.quantized = evaluate(job.student, job.data, job.trainer, job.method)
    return compare("quantized", job.quantized, job.reference) | {"bits/size_mib": size_mib(job.student)}


def train_with_labels(job: Job) -> Metrics:
    """Train the quantized model, or the float one, with labels if asked; it is then what `quantized` stands for."""
    if not job.labelled:
        return {}
    before = compare("ptq", job.quantized, job.reference)
    prepared = job.prepared
    job.tuned = finetune(
        prepared.teacher, job.untrained, job.labelled, prepared.images, prepared.norms, job.qat, job.trainer,
        job.run.output_dir / "qat", job.loggers, job.going_on, job.run.resume,
    )  # fmt: skip
    job.student = job.tuned.student
    after = evaluate_quantized(job)
    curve, seconds = job.tuned.curve, job.tuned.seconds
    write_atomically(job.run.output_dir / "qat.csv", csv_text(curve))
    best = curve[job.tuned.best]["held_out_top1"]
    say("qat", f"{len(curve)} epochs in {seconds:.1f} s, held out {best:.2f} % at its best")
    costs = {
        "qat/epochs": len(curve),
        "qat/images": len(curve) * job.labelled.images_an_epoch,
        "qat/labels": len(job.labelled.training) + len(job.labelled.held_out),
        "time/qat_s": seconds,
    }
    return before | after | costs


# What several devices share. `prepare` comes before, without which no logger knows what to begin, and training, which
# is spread in a way of its own, after.
STAGES: Sequence[Callable[[Job], Metrics]] = (find_start, evaluate_start, round_weights, evaluate_quantized)


def compare(name: str, outputs: Outputs, reference: Outputs) -> Metrics:
    """top1 in percent where there are labels, and the measures of `fidelity` to the reference.

    Raises InputError where the two were not given the same images, as far as their labels tell.
    """
    labels, others = outputs.labels, reference.labels
    if labels is not None and others is not None and not torch.equal(labels, others):
        raise InputError("the evaluation images come in another order each time: models are compared image by image")
    top1 = {} if outputs.top1 is None else {"top1": outputs.top1}
    return {f"{name}/{key}": value for key, value in (top1 | fidelity(reference.logits, outputs.logits)).items()}


def layer_rows(job: Job) -> list[dict]:
    """A row for each layer, of the last unit that had it in.

    Its coding length is that of its weight alone; its score is what the allocator went by, if by any.
    """
    rows = {row["name"]: row for report in job.reports for row in report.rows()}
    allocation: Allocation = job.start.allocation
    return [
        rows[layer.name]
        | {"coding_length": weight_rate(layer.weight), "score": allocation.score.get(layer.name)}
        | activation_columns(job.student, layer.name)
        for layer in job.start.layers
    ]
