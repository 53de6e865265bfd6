"""An exported file beside what its runtime's own static quantizer makes of the same float network."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from attnround.data import ImageData
from attnround.deploy import compare
from attnround.deploy.marked import float_graph
from attnround.deploy.opened import Opened
from attnround.deploy.openvino import OPSET as OPENVINO_OPSET
from attnround.deploy.openvino import OpenVinoModel, sealed_ir
from attnround.deploy.runtime import OnnxModel
from attnround.deploy.seal import about_export
from attnround.deploy.session import any_image, medians_ms, run, session
from attnround.deploy.static import OPSET, quantized_by_nncf, quantized_by_onnxruntime
from attnround.errors import InputError
from attnround.experiment.checks import watched
from attnround.graph import Captured, captured, fold_batch_norms
from attnround.table import text_table
from attnround.zoo import Blueprint

HEADER = ["made by", "MiB", "ms", "times as fast", "top-1 %", "agreement %"]
Runs = Callable[[Tensor], Tensor]


def beside_onnxruntime(
    exported: OnnxModel, num_bytes: int, model: Blueprint, data: ImageData
) -> list[dict[str, object]]:
    """A row for the export, in its own session, and for each form of onnxruntime's, in default sessions.

    In a row: made_by, bytes, ms an image, float_ms of the float graph, speed_up, top1 (None without labels) and
    agreement with the float model in percent. model: makes the float network; ranges of onnxruntime's files are those
    of the data's calibration images. Raises InputError.
    """
    float_model = _float_model(exported, model)
    floats = float_graph(float_model, OPSET)
    made = dict(quantized_by_onnxruntime(floats, data.calibration().images))
    float_run = partial(run, session(floats.SerializeToString(), "the float graph", {}))
    models = {
        "this export": (num_bytes, partial(run, exported.session)),
        **{f"onnxruntime {form}": (len(raw), partial(run, session(raw, form, {}))) for form, raw in made.items()},
    }
    return _rows(float_model, float_run, models, exported, data)


def beside_nncf(exported: OpenVinoModel, num_bytes: int, model: Blueprint, data: ImageData) -> list[dict[str, object]]:
    """The same of an export for OpenVINO, and of each form of NNCF's, with OpenVINO's default options."""
    float_model = _float_model(exported, model)
    about = about_export(exported.about)
    made = dict(quantized_by_nncf(float_model, data.calibration().images))
    floats = sealed_ir(float_graph(float_model, OPENVINO_OPSET).SerializeToString(), about)
    models = {
        "this export": (num_bytes, exported),
        **{f"NNCF {form}": (sum(map(len, files)), OpenVinoModel(*files, about, form)) for form, files in made.items()},
    }
    return _rows(float_model, OpenVinoModel(*floats, about, "the float graph"), models, exported, data)


def _float_model(exported: Opened, model: Blueprint) -> Captured:
    """The float network, folded. Raises InputError where it is not the export's."""
    float_model = captured(model.build())
    fold_batch_norms(float_model)
    if float_model.num_classes != exported.num_classes:
        raise InputError(
            f"model gives {float_model.num_classes} classes, the run's {exported.num_classes}: give its own"
        )
    return float_model


def _rows(
    float_model: Captured, float_run: Runs, models: dict[str, tuple[int, Runs]], exported: Opened, data: ImageData
) -> list[dict[str, object]]:
    """models: by what made them, their bytes and what runs them."""
    sizes, runs = zip(*models.values(), strict=True)
    image = any_image(exported.preprocessing["input_size"])
    float_ms, *times = medians_ms([partial(each, image) for each in (float_run, *runs)])
    found = compare(float_model, runs, watched(data, "beside"))
    return [
        {
            "made_by": name, "bytes": size, "ms": ms, "float_ms": float_ms, "speed_up": float_ms / ms,
            "top1": each.top1, "agreement": each.agreement,
        }
        for name, size, ms, each in zip(models, sizes, times, found, strict=True)
    ]  # fmt: skip


def beside_table(rows: Sequence[dict]) -> str:
    """The rows as text."""
    cells = [
        [row["made_by"], f"{row['bytes'] / 2**20:.3f}", f"{row['ms']:.2f}", f"{row['speed_up']:.2f}",
         None if row["top1"] is None else f"{row['top1']:.2f}", f"{row['agreement']:.2f}"]
        for row in rows
    ]  # fmt: skip
    return text_table(HEADER, cells)
