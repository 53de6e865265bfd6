"""Exported models in OpenVINO beside the float network and beside NNCF: size, integer kernels, milliseconds.

OMP_NUM_THREADS=1 python benchmarks/deployment_openvino.py results/deployment_openvino.csv       # with VNNI
OMP_NUM_THREADS=1 python benchmarks/deployment_openvino.py results/deployment_avx2_openvino.csv  # with AVX2 alone
python benchmarks/deployment_openvino.py outputs/smoke.csv --smoke                               # one small network

As benchmarks/deployment.py does in onnxruntime, with the same networks, images and judgement: every IR of a
network is timed in turn with the float one, an image at a time, with OpenVINO's default options; SQNR of the logits,
agreement and top-1 are those of the same compiled model. NNCF quantizes trained networks twice, as
attnround/deploy/static.py says, others by its defaults. Where nncf is not installed (pip install nncf) its rows are
left out, and a line says so.
"""

import importlib.util
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version

import torch
from deployment import JUDGED, NETWORKS, Case, followed, judged, write_rows
from torch import Tensor

from attnround.api import ENDS, quantize
from attnround.bits import Uniform
from attnround.deploy.marked import float_graph
from attnround.deploy.openvino import AS_WRITTEN, OPSET, OpenVinoModel, is_integer, primitives, sealed_ir
from attnround.deploy.runtime import onnx_file
from attnround.deploy.seal import about_export
from attnround.deploy.session import medians_ms
from attnround.deploy.static import NNCF_FORMS, quantized_by_nncf
from attnround.machine import processor

SETTINGS = [  # bits of weights and of inputs, placement, form of the weights
    (8, 8, "openvino", "runtime"),
    (8, 8, "openvino", "signed"),
    (7, 8, "openvino", "runtime"),
    (4, 8, "openvino", "runtime"),
    (4, None, "inputs", "runtime"),
]
LAYERS = {"Convolution", "FullyConnected", "MatMul"}  # as OpenVINO calls what it runs them as
HEADER = [
    "network", "pixels", "weights", "inputs", "made_by", "form", "mib", "layers", "in_integers", "in_floats", "ms",
    "float_ms", "speed_up", *JUDGED, "threads", "processor", "openvino", "nncf",
]  # fmt: skip


Files = tuple[bytes, bytes, dict]  # the .xml, the .bin and what they say of themselves


def ours(case: Case, settings: list[tuple]) -> Iterator[tuple[dict[str, object], Files]]:
    """What each setting's files are called and how they follow the simulation, and the files."""
    for weights, inputs, placement, form in settings:
        rounding = "gptq" if case.trained else "nearest"
        ends = ENDS if weights == 8 else dict.fromkeys(ENDS, 7)  # of 7 bits, what meets codes runs in integers
        found = quantize(
            case.prepared, bits=Uniform(bit_width=weights, pinned=ends), rounding=rounding, activation=inputs,
            placement=placement, progress=False,
        )  # fmt: skip
        content = found._content()
        about = about_export(content.about)
        xml, binary = sealed_ir(onnx_file(found.model, content, about, OPSET, form)[0], about)
        what = {"weights": weights, "inputs": inputs or 32, "made_by": "attnround", "form": form}
        models = [OpenVinoModel(xml, binary, about, form, settings) for settings in (AS_WRITTEN, None)]
        yield what | followed(case, found, models, len(xml) + len(binary)), (xml, binary, about)


def theirs(case: Case) -> Iterator[tuple[dict[str, object], Files]]:
    """The same by NNCF of the float network."""
    forms = NNCF_FORMS if case.trained else NNCF_FORMS[:1]
    for form, files in quantized_by_nncf(case.prepared.teacher, case.prepared.images, forms):
        what = {"weights": 8, "inputs": 8, "made_by": "nncf", "form": form}
        yield what, (*files, about_images(case.prepared.images))


def about_images(images: Tensor) -> dict:
    """What a model of these images says of itself."""
    return {"model": {"input_size": list(images.shape[1:])}}


def operations(model: OpenVinoModel) -> dict[str, int]:
    """Layers that run in integers and in floats, as OpenVINO has compiled them."""
    found = {"in_integers": 0, "in_floats": 0}
    for kind, primitive, _ in primitives(model):
        if kind in LAYERS:
            found["in_integers" if is_integer(primitive) else "in_floats"] += 1
    return found


def rows_of(name: str, settings: list[tuple]) -> list[dict]:
    """A row an IR of this network, all timed in one run."""
    case = NETWORKS[name](name)
    images, teacher = case.prepared.images, case.prepared.teacher
    teacher.preprocessing = {"input_size": list(images.shape[1:])}
    about = about_images(images)
    floats = (*sealed_ir(float_graph(teacher, OPSET).SerializeToString(), about), about)
    made = list(ours(case, settings))
    if importlib.util.find_spec("nncf"):
        made += theirs(case)
    else:
        print(f"{name}: nncf is not installed, its rows are left out (pip install nncf)")
    image = images[:1].contiguous()
    models = [OpenVinoModel(*files, name) for files in (floats, *(files for _, files in made))]
    float_ms, *times = medians_ms([partial(each, image) for each in models], rounds=60, seconds=120)
    rows = []
    for (what, files), model, ms in zip(made, models[1:], times, strict=True):
        row = {
            "network": name, "pixels": image.shape[-1], **what, "mib": f"{sum(map(len, files[:2])) / 2**20:.3f}",
            "layers": len(case.prepared.unfolded), **operations(model), "ms": f"{ms:.3f}",
            "float_ms": f"{float_ms:.3f}", "speed_up": f"{float_ms / ms:.2f}", "threads": torch.get_num_threads(),
            "processor": processor(), "openvino": version("openvino"),
            "nncf": version("nncf") if what["made_by"] == "nncf" else "",
        }  # fmt: skip
        rows.append(row | judged(case, model))
    return rows


if __name__ == "__main__":
    write_rows(__doc__, HEADER, SETTINGS, rows_of)
