"""An exported ONNX file beside what onnxruntime's own static quantizer makes of the same float network."""

from functools import partial

from attnround.data import ImageData
from attnround.deploy import compare
from attnround.deploy.marked import float_graph
from attnround.deploy.runtime import OnnxModel
from attnround.deploy.session import any_image, latency, run, session
from attnround.deploy.static import OPSET, quantized_by_onnxruntime
from attnround.errors import InputError
from attnround.experiment.checks import watched
from attnround.graph import captured, fold_batch_norms
from attnround.table import text_table
from attnround.zoo import Blueprint

HEADER = ["made by", "MiB", "ms", "times as fast", "top-1 %", "agreement %"]


def beside_onnxruntime(
    exported: OnnxModel, num_bytes: int, model: Blueprint, data: ImageData
) -> list[dict[str, object]]:
    """A row for the export, in its own session, and for each form of onnxruntime's, in default sessions.

    In a row: made_by, bytes, ms an image, float_ms of the float graph, speed_up, top1 (None without labels) and
    agreement with the float model in percent. model: makes the float network; ranges of onnxruntime's files are those
    of the data's calibration images. Raises InputError.
    """
    float_model = captured(model.build())
    fold_batch_norms(float_model)
    if float_model.num_classes != exported.num_classes:
        raise InputError(
            f"model gives {float_model.num_classes} classes, the run's {exported.num_classes}: give its own"
        )
    floats = float_graph(float_model, OPSET)
    made = dict(quantized_by_onnxruntime(floats, data.calibration().images))
    sessions = [exported.session, *(session(raw, form, {}) for form, raw in made.items())]
    image = any_image(exported.preprocessing["input_size"])
    float_ms, *times = latency([session(floats.SerializeToString(), "the float graph", {}), *sessions], image)
    found = compare(float_model, [partial(run, each) for each in sessions], watched(data, "beside"))
    names = ["this export", *(f"onnxruntime {form}" for form in made)]
    sizes = [num_bytes, *map(len, made.values())]
    return [
        {
            "made_by": name, "bytes": size, "ms": ms, "float_ms": float_ms, "speed_up": float_ms / ms,
            "top1": each.top1, "agreement": each.agreement,
        }
        for name, size, ms, each in zip(names, sizes, times, found, strict=True)
    ]  # fmt: skip


def beside_table(rows: list[dict]) -> str:
    """The rows as text."""
    cells = [
        [row["made_by"], f"{row['bytes'] / 2**20:.3f}", f"{row['ms']:.2f}", f"{row['speed_up']:.2f}",
         None if row["top1"] is None else f"{row['top1']:.2f}", f"{row['agreement']:.2f}"]
        for row in rows
    ]  # fmt: skip
    return text_table(HEADER, cells)
