"""What a file of a run gives, the task of `src/evaluate.py`, and the proof that its integers give it."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from torch import Tensor

from attnround.data import ImageData
from attnround.deploy import build, fingerprint, open_model, prove, read
from attnround.deploy.file import Content
from attnround.deploy.report import findings, layer_table, verdict
from attnround.errors import InputError, check_number
from attnround.experiment.card import write_card
from attnround.experiment.comparison import fidelity_cells, interval
from attnround.experiment.record import Run
from attnround.experiment.schema import read_record
from attnround.experiment.sharing import evaluate_each
from attnround.experiment.stages import check_labels, compare
from attnround.factory import made
from attnround.files import json_floats, sealed_json, write_atomically
from attnround.graph import Captured, captured
from attnround.progress import bar
from attnround.table import csv_text
from attnround.trainer import TrainerSettings
from attnround.zoo import Blueprint

log = logging.getLogger(__name__)


def evaluate_file(
    *,
    checkpoint: str,
    data: ImageData,
    trainer: TrainerSettings,
    run: Run,
    model: Blueprint | None = None,
    factory: str | None = None,
    arguments: dict | None = None,
) -> dict[str, float]:
    """Top-1 of an exported model on the evaluation images, as `quantized/top1`, as in the record of its run.

    model: the float one, to compare with, as the record does too; factory, arguments: what makes the float module where
    the file is of the user's own one. Raises InputError where there are neither labels nor a float model.
    """
    opened = open_model(checkpoint, own_model(factory, arguments))
    if trainer.num_devices > 1 and not isinstance(opened, Captured):
        raise InputError(f"{Path(checkpoint).name} is evaluated by one process: leave trainer.devices out")
    data.match(opened.preprocessing, opened.num_classes)
    if model is None and not data.has_labels:
        raise InputError(
            f"data={run.choices['data']} has no labels: give data.labels=<CSV: image, index of its class>, or "
            "model=<the float model> to compare with"
        )
    check_labels(data, run)
    float_model = None if model is None else captured(model.build())
    if float_model is not None and float_model.num_classes != opened.num_classes:
        raise InputError(
            f"model gives {float_model.num_classes} classes, {checkpoint} {opened.num_classes}: give its own"
        )
    models = {Path(checkpoint).name: opened} | ({} if float_model is None else {"fp32": float_model})
    outputs, *reference = evaluate_each(models, data, trainer)
    metrics = compare("quantized", outputs, *reference) if reference else {"quantized/top1": outputs.top1}
    said = ", ".join(said_of(metrics, len(outputs)))
    log.info("%s on %d images of %s: %s", checkpoint, len(outputs), run.choices["data"], said)
    return metrics


def said_of(metrics: dict[str, float], num_images: int) -> Iterator[str]:
    """What was found of a quantized model."""
    if "quantized/top1" in metrics:
        top1 = metrics["quantized/top1"]
        yield f"top-1 {top1:.2f} %, 95 % interval {interval(top1, num_images)}"
    if "quantized/agreement" in metrics:
        agreement, between, sqnr_db, kl, confidence = fidelity_cells("quantized", metrics, num_images)
        yield f"agreement with FP32 {agreement} %, 95 % interval {between}"
        yield f"SQNR {sqnr_db} dB, KL {kl} nats, confidence {confidence} points"


def verify(
    *,
    folder: str,
    data: ImageData,
    batch_size: int,
    run: Run,
    factory: str | None = None,
    arguments: dict | None = None,
) -> dict[str, float]:
    """Prove a run's file in integer arithmetic; write verify.json, verify.csv and the card; return the agreement.

    factory, arguments: what makes the float module where it is the user's own. Raises InputError, after all is written,
    where something contradicts the proof.
    """
    check_number("batch_size", batch_size, least=1, whole=True)
    begun = time.perf_counter()
    record, path = of_run(folder, factory)
    content = read(path)
    model = simulation(content, path, factory, arguments, data)
    proof = prove(model, content.layers, watched(data, "verify"), batch_size)
    same_data = {**record["config"]["data"], "licence": None} == {**run.config["data"], "licence": None}
    faults = proof.faults
    if content.about["sha256"] != record["deployed"]["sha256"]:
        faults.append(f"{path.name} is not the file that the record is of")
    if fingerprint(model) != record["deployed"]["fingerprint"]:
        faults.append("the loaded model is not, bit for bit, the one that was measured")
    network = asdict(proof.network)
    network["integer_right"] = network.pop("right")
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "sha256": content.about["sha256"],
        "data": run.choices["data"],
        "verdict": verdict(proof, faults),
        "findings": findings(proof, json_floats(record["metrics"]).get("quantized/top1") if same_data else None),
        "faults": faults,
        "network": network | {"disagreeing": proof.disagreeing},
        "layers": [asdict(layer) for layer in proof.layers],
        "edges": [asdict(edge) for edge in proof.edges],
    }
    write_atomically(Path(folder) / "verify.json", sealed_json(report, indent=2))
    write_atomically(Path(folder) / "verify.csv", csv_text(report["layers"]))
    write_card(Path(folder))
    log.info("\n%s\n\n%s\n", layer_table(proof), "\n".join(report["findings"]))
    log.info("%s (%.0f s; verify.json, verify.csv, model_card.md)", report["verdict"], time.perf_counter() - begun)
    if faults:
        raise InputError(f"{path}: the proof fails: {'; '.join(faults)}")
    return {"agreement": proof.network.agreement}


def of_run(folder: str, factory: str | None) -> tuple[dict, Path]:
    """The record of a run and its model's file.

    Raises InputError where the model is the user's own and nothing says what makes it: what a record names is not run.
    """
    record = read_record(Path(folder))
    if record["choices"]["model"] == "module" and factory is None:
        named = record["config"]["model"].get("factory", "package.module:function")
        raise InputError(f"{folder} is of a model of your own: give factory={named}, if that function is to make it")
    return record, Path(folder) / record["deployed"]["file"]


def simulation(content: Content, path: Path, factory: str | None, arguments: dict | None, data: ImageData) -> Captured:
    """The model of a run's file, and data that goes with it. Raises InputError."""
    model = build(content, str(path), own_model(factory, arguments))
    data.match(model.preprocessing, model.num_classes)
    return model


def own_model(factory: str | None, arguments: dict | None) -> Callable[[], object] | None:
    """What makes the user's own float module; None where it is timm's."""
    return partial(made, "factory", factory, arguments) if factory else None


def watched(data: ImageData, name: str) -> Iterator[list[Tensor | None]]:
    """The evaluation batches, with a bar that counts them, and then what there is to say of the images."""
    loader = data.val_dataloader()
    progress = bar(len(loader), name, "batch")
    for batch in loader:
        if batch is not None:
            yield batch
        progress.update()
    progress.close()
    data.say_remarks()
