"""Where onnxruntime spends its time, by kind of operator, on a quantized network and on the float one.

OMP_NUM_THREADS=1 python benchmarks/kernel_times.py results/deployment_avx2_kernels.csv  # with AVX2 alone
python benchmarks/kernel_times.py outputs/smoke.csv --smoke                              # one small network

Weights of 7 bits in all layers, rounded to nearest, inputs of 8 and placement=onnxruntime, so that all runs in integers
and no sum overflows. An image at a time in a default session; float and integer sessions take turns. A row has the sum
of the median times of the operators of a kind.
"""

import json
import statistics
import tempfile
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path

import onnx
from deployment import NETWORKS, write_rows
from torch import Tensor

from attnround.api import ENDS, quantize
from attnround.bits import Uniform
from attnround.deploy.marked import float_graph
from attnround.deploy.runtime import onnx_file
from attnround.deploy.seal import about_export
from attnround.deploy.session import run, session
from attnround.machine import processor

HEADER = [
    "network", "kind", "float_operators", "float_ms", "integer_operators", "integer_ms", "processor", "onnxruntime",
]  # fmt: skip
OPSET = 21
SETTINGS = [(7,)]  # bits of weights
ROUNDS, TURNS = 40, 2


def files_of(name: str, bit_width: int) -> tuple[bytes, bytes, Tensor]:
    """The float graph, the quantized one, and an image."""
    case = NETWORKS[name](name)
    teacher, image = case.prepared.teacher, case.prepared.images[:1].contiguous()
    teacher.preprocessing = {"input_size": list(image.shape[1:])}
    bits = Uniform(bit_width=bit_width, pinned=dict.fromkeys(ENDS, bit_width))
    found = quantize(
        case.prepared, bits=bits, rounding="nearest", activation=8, placement="onnxruntime", progress=False
    )
    content = found._content()
    raw, _ = onnx_file(found.model, content, about_export(content.about), opset=OPSET)
    return float_graph(teacher, OPSET).SerializeToString(), raw, image


def kind_of(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> str:
    """What a row calls an operator of the optimised graph, in floats and in integers alike."""
    if "Conv" not in node.op_type:
        return "linear" if "Gemm" in node.op_type else "rest"
    groups = next(attribute.i for attribute in node.attribute if attribute.name == "group")
    weight = next(shapes[name] for name in node.input if len(shapes.get(name, [])) == 4)
    if groups > 1:
        return "depthwise convolution"
    return "1x1 convolution" if weight[2:] == [1, 1] else "convolution"


def profiled(raw: bytes, image: Tensor, folder: Path) -> tuple[Counter[str], dict[str, float]]:
    """Kind -> how many operators, and the sum of their median milliseconds."""
    file = folder / "graph.onnx"
    each = session(raw, "the file", {}, optimised=file, profile=folder / "times")
    for _ in range(ROUNDS):
        run(each, image)
    graph = onnx.load(file).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    kinds = {node.name: kind_of(node, shapes) for node in graph.node}
    times = defaultdict(list)
    for event in json.loads(Path(each.end_profiling()).read_text()):
        name, _, what = event["name"].rpartition("_kernel_")
        if what == "time":
            times[name].append(event["dur"] / 1000)
    totals: dict[str, float] = defaultdict(float)
    for name, taken in times.items():
        totals[kinds.get(name, "rest")] += statistics.median(taken)
    return Counter(kinds.get(name, "rest") for name in times), totals


def rows_of(name: str, settings: list[tuple]) -> list[dict]:
    """A row a kind of operator of this network."""
    (bit_width,) = settings[0]
    *graphs, image = files_of(name, bit_width)
    found: list[list[tuple[Counter[str], dict[str, float]]]] = [[], []]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(TURNS):
            for each, raw in zip(found, graphs, strict=True):
                each.append(profiled(raw, image, Path(folder)))
    rows = []
    for kind in found[0][0][1] | found[1][0][1]:
        row: dict[str, object] = {"network": name, "kind": kind}
        for what, each in zip(("float", "integer"), found, strict=True):
            row[f"{what}_operators"] = each[0][0][kind]
            row[f"{what}_ms"] = f"{min(times.get(kind, 0.0) for _, times in each):.3f}"
        rows.append(row | {"processor": processor(), "onnxruntime": version("onnxruntime")})
    return rows


if __name__ == "__main__":
    write_rows(__doc__, HEADER, SETTINGS, rows_of, ["lite0", "resnet18", "mobilenetv2_100"])
