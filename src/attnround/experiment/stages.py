"""What the float model is prepared with, how its bits are found, and how it is rounded: each stage says its line."""

import logging
import time
from collections.abc import Callable, Sequence

import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from attnround import prepared as library
from attnround.bits import Allocator, Layer, allocation_json
from attnround.data import Calibration, ImageData
from attnround.errors import InputError, listed
from attnround.experiment.loggers import kept_starts, say
from attnround.experiment.record import Run
from attnround.files import write_atomically
from attnround.graph import Captured, captured, joined
from attnround.prepared import Prepared, Start
from attnround.quantization.observer import sqnr_db
from attnround.quantization.ranges import RangeSearch
from attnround.quantization.rounding import RoundingMethod
from attnround.reconstruction import Checkpoint, Reconstruction, UnitReport
from attnround.reconstruction.lightning import fit_reconstruction
from attnround.trainer import TrainerSettings
from attnround.zoo import TimmModel

log = logging.getLogger(__name__)

PROBES = 64  # calibration images on which the folded model is compared with the original
HUGE = 1e6  # a logit: a softmax is decided by differences of some tens
DWARFED = 1e6  # times the median channel
LOST_DB = 1.0  # of a weight; with zeros in its place it has 0 dB


def prepare(model: TimmModel, data: ImageData) -> tuple[Prepared, Calibration]:
    """Build, capture and fold the float model, and draw its calibration images."""
    teacher = captured(model.build())
    say("model", f"{model.name}, {sum(p.numel() for p in teacher.parameters()) / 1e6:.2f} M parameters")
    say("weights", teacher.weights_from)
    data.match(teacher.preprocessing, teacher.num_classes)
    calibration = data.calibration()
    skipped = f", {len(calibration.skipped)} unreadable files skipped" if calibration.skipped else ""
    say("calibration", f"{len(calibration.images)} images of {calibration.source}, no labels{skipped}")
    for remark in teacher.remarks:
        say("model", remark)
    return fold(teacher, calibration.images, model.architecture(teacher)), calibration


def fold(model: Captured, images: Tensor, architecture: dict[str, object]) -> Prepared:
    """Fold the batch norms and say how little that changed the outputs.

    Raises InputError where the float model's logits are not finite.
    """
    probes = images[:PROBES]
    with torch.no_grad():
        before = joined(model(probes))
        broken = int((~before.isfinite()).flatten(1).any(1).sum())
        if broken:
            raise InputError(
                f"{broken} of the {len(probes)} probe images give logits that are not finite: check the checkpoint's "
                "weights and the preprocessing of the images"
            )
        prepared = Prepared.of_captured(model, images, architecture)
        difference = ((joined(model(probes)) - before).abs().max() / before.abs().max()).item()
    kept = f", {len(prepared.left)} stay float ({', '.join(prepared.left)})" if prepared.left else ""
    say("fold", f"{len(prepared.folded)} batch norms{kept}; largest relative change of a logit {difference:.0e}")
    if (largest := before.abs().max().item()) > HUGE:
        log.warning(
            "%-12s logits reach %.0e: a weight of the checkpoint is broken, or the preprocessing", "fold", largest
        )
    return prepared


def start(
    prepared: Prepared,
    bits: Allocator,
    activation: RangeSearch,
    reconstruction: Reconstruction,
    trainer: TrainerSettings,
    reconstructed: Callable[[nn.Module], object],
    run: Run,
) -> Start:
    """As the library's `start`; write allocation.json.

    reconstructed: rounds a student as the run does, for allocators that try what they allocate.
    """
    found = library.start(
        prepared, bits, activation, reconstruction,
        device=trainer.device, seed=run.seed, rounded=reconstructed,
    )  # fmt: skip
    allocation = found.allocation
    write_atomically(run.output_dir / "allocation.json", allocation_json(allocation, found.layers))
    warn_of_lost(found.student, found.layers)
    basis = f" by {allocation.convention}" if allocation.convention else ""
    say("bits", f"{run.choices['bits']}, {found.mean_bits:.3f} a weight over {len(found.layers)} layers{basis}")
    say("bits", f"found in {found.allocation_s:.1f} s{allocation.budget and f'; {allocation.budget}'}")
    inputs = f", inputs at {activation.bit_width} bits by {run.choices['activation']}" if found.activations else ""
    say("scales", f"found in {found.scales_s:.1f} s{inputs}")
    return found


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


def round_weights(
    prepared: Prepared,
    student: nn.Module,
    quantizer: RoundingMethod,
    reconstruction: Reconstruction,
    trainer: TrainerSettings,
    loggers: Sequence[Logger],
    run: Run,
) -> tuple[list[UnitReport], float]:
    """Reconstruct the student in place, from its last finished unit where the run goes on; reports and seconds."""
    checkpoint = Checkpoint(run.output_dir / "reconstruction.pt", run.identity)
    if run.resume:
        say("resume", f"{len(checkpoint.restore(student))} finished units of {checkpoint.path}")
    else:
        checkpoint.path.unlink(missing_ok=True)  # an earlier run's, in a folder given twice
    begun = time.perf_counter()
    reports = fit_reconstruction(
        prepared.teacher, student, prepared.images, quantizer, reconstruction, trainer,
        seed=run.seed, loggers=loggers, checkpoint=checkpoint,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    held_out = int(reconstruction.held_out * len(prepared.images)) > 0
    say("reconstruct", f"{run.choices['quantizer']} in {seconds:.1f} s{kept_starts(reports, held_out)}")
    return reports, seconds
