"""OpenVINO's own form of a model, its IR: an .xml with its .bin, made by OpenVINO's reader of the ONNX that we write.

Weights of 2 and 4 bits are INT4 in the .bin, others INT8. What the file says of itself is a text of the .xml, and the
checksum there is over the .xml, which holds that of the .bin.
"""

import hashlib
import html
import importlib.util
import re
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnround.deploy.file import StoredLayer
from attnround.deploy.kernels import Kernel
from attnround.deploy.opened import Opened
from attnround.deploy.openvino_graph import slim
from attnround.deploy.qdq import shifted
from attnround.deploy.runtime import read_graph
from attnround.deploy.seal import ENTRY, check_seal, describe, read_about, read_bytes, seal
from attnround.errors import InputError

GIVE = "the quantized.xml that src/export.py writes, with its quantized.bin"
OPSET = 21  # the newest that OpenVINO 2026.4 reads all types of: it knows no INT2
# The operations of the file, in float32. By default floats are bfloat16 where the processor has it, and inputs of
# linear layers with packed weights are quantized on the fly where it has VNNI.
AS_WRITTEN = {
    "LP_TRANSFORMS_MODE": "NO",
    "INFERENCE_PRECISION_HINT": "f32",
    "EXECUTION_MODE_HINT": "ACCURACY",
}
BIN = "bin_digest"
CPU = "CPU"
ENDING = ".levels"  # of the names of layers' integers
UNPACKING = {"Convert", "Add", "Subtract", "Multiply", "Reshape", "Transpose", "Unsqueeze"}  # of levels, to a weight


def need_openvino(what: str) -> None:
    """Raise InputError unless the optional package is there."""
    if importlib.util.find_spec("openvino") is None:
        raise InputError(f"{what} needs openvino: install the extra, pip install -e '.[export,openvino]'")


def check_device(name: str) -> None:
    """Raise InputError unless OpenVINO has such a device here."""
    import openvino

    there = openvino.Core().available_devices
    if name not in there:
        raise InputError(
            f"provider={name}: openvino {version('openvino')} here has {', '.join(there)}: give one of these"
        )


def sealed_ir(raw: bytes, about: dict) -> tuple[bytes, bytes]:
    """The .xml and the .bin of an ONNX file's bytes. Raises InputError where OpenVINO does not take these."""
    import onnx.inliner
    import openvino

    model = onnx.inliner.inline_local_functions(read_graph(raw, "the model"))  # the marks of a float graph
    model.ClearField("metadata_props")  # what the ONNX says of itself
    slim(model.graph)
    try:
        model = openvino.Core().read_model(model.SerializeToString())
    except RuntimeError as error:
        raise InputError(f"openvino {version('openvino')} does not take this model ({_reason(error)})") from error
    _, weights = saved(model)
    model.set_rt_info(describe(about | {BIN: hashlib.sha256(weights).hexdigest()}), [ENTRY])
    return seal(saved(model)[0])[0], weights


def saved(model: Any) -> tuple[bytes, bytes]:
    """The .xml, without line breaks, and the .bin of one of OpenVINO's models, whose weights stay in their types."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "quantized.xml"
        openvino.save_model(model, file, compress_to_fp16=False)
        xml = b"".join(line.strip() for line in file.read_bytes().splitlines())
        return xml, file.with_suffix(".bin").read_bytes()


class OpenVinoModel(Opened):
    """An IR as a module: images [N, C, H, W] -> logits, or several outputs by their names.

    settings: OpenVINO's properties; by default it takes its integer kernels where it can. device: one of `devices`.
    """

    def __init__(
        self,
        xml: bytes,
        weights: bytes,
        about: dict,
        source: str,
        settings: dict[str, str] | None = None,
        device: str = CPU,
    ):
        super().__init__(about)
        graph, self.compiled = _compiled(xml, weights, source, settings, device)
        self.names: list[str] | None = None
        names = [each.get_tensor().names for each in graph.outputs]
        if len(self.compiled.outputs) == 1:
            self.logits_at = None
        elif all(names):  # of the graph as written: compiled, a tensor may have those of its quantizer too
            self.names = [each.get_any_name() for each in graph.outputs]
        else:  # NNCF's
            raise InputError(f"{source}: it has several outputs without names, so that they cannot be compared")
        self.operations = _operations(graph)

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        found = self.compiled(images.cpu().numpy())
        outputs = [torch.from_numpy(found[port]).to(images.device) for port in self.compiled.outputs]
        return outputs[0] if self.names is None else dict(zip(self.names, outputs, strict=True))


def open_ir(
    xml: bytes, weights: bytes, path: str | Path, settings: dict[str, str] | None = None, device: str = CPU
) -> OpenVinoModel:
    """The model of both files' bytes. Raises InputError where they are damaged, of something else or not run."""
    about = read_about(_entry(xml), path, GIVE)
    check_seal(xml, about, path)
    if about.get(BIN) != hashlib.sha256(weights).hexdigest():
        raise InputError(f"{Path(path).with_suffix('.bin')} is damaged or not that of {path}: copy both anew")
    return OpenVinoModel(xml, weights, about, str(path), settings, device)


def load_ir(path: str | Path) -> OpenVinoModel:
    """The model of an .xml, with its .bin beside it. Raises InputError as `open_ir` does."""
    need_openvino(str(path))
    return open_ir(read_bytes(path, GIVE), read_bytes(Path(path).with_suffix(".bin"), GIVE), path)


def layers_in_integers(model: OpenVinoModel) -> list[str]:
    """The names of the layers that OpenVINO runs in integer kernels wherever they are called."""
    return sorted(layer for layer, run in _primitives(model).items() if all(map(is_integer, run)))


def kernels(model: OpenVinoModel, layers: Iterable[StoredLayer], form: str) -> list[Kernel]:
    """How each layer of a file runs, in their order, as what OpenVINO compiled by default. form: of the weights."""
    run_as, found = _primitives(model), []
    for layer in layers:
        in_integers = all(map(is_integer, run_as[layer.name]))
        shown = next(each for each in run_as[layer.name] if is_integer(each) == in_integers)
        found.append(Kernel(layer.name, shown, in_integers, _why(layer, form, in_integers)))
    return found


def _why(layer: StoredLayer, form: str, in_integers: bool) -> str | None:
    """Why a layer runs in floats; None where it does not."""
    if in_integers:
        return None
    if layer.activation is None:
        return "its input is float"
    if shifted(layer, form):
        return "its weight is UINT8"
    if not layer.grid.symmetric:
        return "its weight is on an asymmetric grid"
    return "OpenVINO leaves it in floats"


def is_integer(primitive: str) -> bool:
    """Whether OpenVINO's name of a primitive is that of an integer kernel."""
    return primitive.endswith(("_I8", "_i8"))


def primitives(model: OpenVinoModel) -> Iterator[tuple[str, str, str]]:
    """What it has compiled: the kind of each operation, its primitive and the names of the operations it was made of.

    It names an operation as the graph does, with more behind a slash where it has split it.
    """
    for each in model.compiled.get_runtime_model().get_ops():
        about = each.get_rt_info()
        yield tuple(about[key].astype(str) for key in ("layerType", "primitiveType", "originalLayersNames"))


def _primitives(model: OpenVinoModel) -> dict[str, list[str]]:
    """Layer -> the primitive of each operation that takes its weight, its kind where OpenVINO lost its name."""
    run_as: dict[str, str] = {}
    for _, primitive, names in primitives(model):
        for name in names.split(","):
            whole = name.partition("/")[0]
            if not is_integer(run_as.get(whole, "")):  # what was split is where a part is
                run_as[whole] = primitive
    return {
        layer: [run_as.get(name, kind) for name, kind in taken.items()] for layer, taken in model.operations.items()
    }


def _reason(error: RuntimeError) -> str:
    """What OpenVINO says last, behind the places in its code."""
    return [line for line in str(error).splitlines() if line.strip()][-1].strip()


def _operations(graph: Any) -> dict[str, dict[str, str]]:
    """Layer -> the name and the kind of each operation that takes its weight, which is made of its levels."""
    found = {}
    for each in graph.get_ops():
        if each.get_type_name() == "Constant" and each.get_friendly_name().endswith(ENDING):
            taken = {node.get_friendly_name().partition("/")[0]: node.get_type_name() for node in _reached(each)}
            found[each.get_friendly_name().removesuffix(ENDING)] = taken
    return found


def _reached(operation: Any) -> Iterator[Any]:
    """The operations that compute with this one's result, past what only unpacks or shapes it."""
    for output in operation.outputs():
        for taker in output.get_target_inputs():
            node = taker.get_node()
            if node.get_type_name() in UNPACKING:
                yield from _reached(node)
            elif node.get_type_name() != "ShapeOf":  # which the reader adds of a grouped convolution's weight
                yield node


def _entry(xml: bytes) -> str | None:
    """What an .xml says of itself, as text."""
    found = re.search(rb'<attnround value="([^"]*)"', xml)
    return html.unescape(found[1].decode(errors="replace")) if found else None


def _compiled(xml: bytes, weights: bytes, source: str, settings: dict[str, str] | None, device: str) -> tuple[Any, Any]:
    """The graph as it is written, and as the device runs it."""
    import openvino

    threads = {"INFERENCE_NUM_THREADS": str(torch.get_num_threads())} if device == CPU else {}
    core = openvino.Core()
    try:
        graph = core.read_model(xml, weights)
        return graph, core.compile_model(graph, device, threads | (settings or {}))
    except RuntimeError as error:
        raise InputError(f"{source}: openvino {version('openvino')} does not run it ({_reason(error)})") from error
