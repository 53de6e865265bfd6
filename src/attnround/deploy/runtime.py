"""onnxruntime's side: which opset it runs, sessions, an ONNX file as a module, and how long a session takes."""

import importlib.util
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from attnround.deploy.file import Content
from attnround.deploy.marked import float_graph
from attnround.deploy.opset import OLDEST
from attnround.deploy.preprocessing import pixels_of, resizes, with_head
from attnround.deploy.qdq import NARROW, packed, quantized_graph, storage_bits, wanted_form, wanted_opset
from attnround.deploy.seal import ENTRY, check_seal, describe, preprocessing_of, read_about, read_bytes, seal
from attnround.errors import InputError, reason

GIVE = "the quantized.onnx that src/export.py writes"
AS_WRITTEN = {"session.disable_quant_qdq": "1"}  # else biases are rounded to int32 for the integer kernels
INTEGER_KERNELS = {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearConv", "QLinearMatMul"}
LEVELS = (".levels", ".octets")  # how names of weights end that integer kernels take
WARM_UP = 3  # first runs, which allocate


def need_onnx(what: str) -> None:
    """Raise InputError unless the optional packages are there."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{what} needs {' and '.join(missing)}: install the extra, pip install -e '.[export]'")


def session(raw: bytes, source: str, settings: dict[str, str] = AS_WRITTEN, optimised: Path | None = None) -> Any:
    """An onnxruntime session on the CPU, with as many threads as torch. Raises InputError where it takes no such model.

    As written, it computes what the graph says. Without settings it uses onnxruntime's integer kernels where it can,
    for which it rounds biases to integers, in steps of the scales' product. optimised: a file for the graph that it
    makes of the model's.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    options.intra_op_num_threads = torch.get_num_threads()
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    try:
        return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its kinds share no base class of their own
        raise InputError(
            f"{source}: onnxruntime {onnxruntime.__version__} does not run it ({reason(error)}): "
            "install a newer one, or export with an older opset"
        ) from error


def in_integers(raw: bytes, source: str) -> set[str]:
    """The names of the layers that onnxruntime runs in integer kernels by default, as the graph says that it optimised.

    Raises InputError as `session` does.
    """
    nodes = optimised_graph(raw, source).node
    inputs = (name for node in nodes if node.op_type in INTEGER_KERNELS for name in node.input)
    return {name.rpartition(".")[0] for name in inputs if name.endswith(LEVELS)}


def optimised_graph(raw: bytes, source: str) -> Any:
    """The graph that onnxruntime makes of a model's by default. Raises InputError as `session` does."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimised.onnx"
        session(raw, source, {}, file)
        return onnx.load(file).graph


def run(session: Any, images: Tensor) -> Tensor | tuple[Tensor, ...]:
    """What a session gives for images on the CPU. Raises InputError where onnxruntime fails at what it took."""
    try:
        found = session.run(None, {"images": images.numpy()})
    except Exception as error:  # as in `session`
        raise InputError(f"onnxruntime fails to run the model ({reason(error)}): try another version") from error
    found = tuple(map(torch.from_numpy, found))
    return found[0] if len(found) == 1 else found


def newest_opset() -> int:
    """The newest opset that onnx writes and onnxruntime runs, as tried with the narrowest weight that it has."""
    import onnx

    for opset in range(onnx.defs.onnx_opset_version(), OLDEST, -1):
        try:
            session(_probe(opset), "a probe")
        except (InputError, AttributeError):  # onnx may not know the type
            continue
        return opset
    return OLDEST


def _probe(opset: int) -> bytes:
    from onnx import TensorProto, helper

    bits = storage_bits(min(NARROW), opset)
    kind = getattr(TensorProto, f"INT{bits}")
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["levels", "scale"], ["weight"]),
            helper.make_node("Mul", ["x", "weight"], ["y"]),
        ],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [
            helper.make_tensor("levels", kind, [4], packed(torch.tensor([-2, -1, 0, 1]), bits), raw=True),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0]),
        ],
    )
    imports = [helper.make_opsetid("", opset)]
    ir_version = helper.find_min_ir_version_for(imports, ignore_unknown=True)
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version).SerializeToString()


class OnnxModel(nn.Module):
    """An ONNX file as a module: images [N, C, H, W] -> logits, or a tuple where it has several outputs.

    It runs on the CPU whatever the device of the images. Of a file that takes pixels, images are turned into these;
    raises InputError where it resizes them too.
    """

    def __init__(self, raw: bytes, about: dict, source: str, settings: dict[str, str] = AS_WRITTEN):
        super().__init__()
        self.about = about
        self.preprocessing = preprocessing_of(about)
        self.num_classes, self.logits_at = about["model"].get("num_classes"), about["model"].get("output")
        if resizes(about.get("steps", [])):
            raise InputError(f"{source} resizes image files itself: open the one without preprocessing=graph")
        self.session = session(raw, source, settings)

    def forward(self, images: Tensor) -> Tensor:
        if "steps" in self.about:
            images = pixels_of(images.cpu(), self.preprocessing)
        return pytree.tree_map(lambda each: each.to(images.device), run(self.session, images.cpu()))


def onnx_file(
    model: nn.Module, content: Content, about: dict, opset: int | None = None, weights: str = "runtime"
) -> tuple[bytes, Any]:
    """The bytes of a quantized model as ONNX, and the graph of its float operations that it was made from.

    content: of the model's file; opset: None takes the oldest that has the types of the model's bits, or the newest
    there is; weights: of `FORMS`.
    """
    form = wanted_form(weights, content.placement)
    opset = opset or min(wanted_opset(content.layers), newest_opset())
    floats = float_graph(model, opset)
    return sealed_onnx(quantized_graph(floats, content.layers, opset, form, content.edges), about)[0], floats


def with_preprocessing(raw: bytes, steps: list[dict], about: dict) -> bytes:
    """The bytes of an ONNX file that does these steps first, and says so. Raises InputError as `with_head` does."""
    import onnx

    model = onnx.load_model_from_string(raw)
    model.ClearField("metadata_props")
    channels = preprocessing_of(about)["input_size"][0]
    return sealed_onnx(with_head(model, steps, channels), about | {"steps": steps})[0]


def sealed_onnx(model: Any, about: dict) -> tuple[bytes, str]:
    """The bytes of an ONNX model that says what it is and has its checksum in its metadata; the checksum."""
    model.metadata_props.add(key=ENTRY, value=describe(about))
    return seal(model.SerializeToString(deterministic=True))


def load_onnx(path: str | Path) -> OnnxModel:
    """The model of an exported ONNX file. Raises InputError as `open_onnx` does, and where there is no such file."""
    need_onnx(str(path))
    return open_onnx(read_bytes(path, GIVE), path)


def open_onnx(raw: bytes, path: str | Path, settings: dict[str, str] = AS_WRITTEN) -> OnnxModel:
    """The model of a file's bytes. Raises InputError where they are damaged, of something else, too new or not run."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        entries = {each.key: each.value for each in onnx.load_model_from_string(raw).metadata_props}
    except (DecodeError, ValueError) as error:
        raise InputError(f"{path} is no whole ONNX file: it is cut short, damaged or of something else") from error
    about = read_about(entries.get(ENTRY), path, GIVE)
    check_seal(raw, about, path)
    return OnnxModel(raw, about, str(path), settings)


def latency(sessions: list[Any], image: Tensor, rounds: int = 40, seconds: float = 5.0) -> list[float]:
    """Median milliseconds of each session for an image [1, C, H, W], in turns so that all meet the same machine.

    At most `rounds` of each and about `seconds` in all.
    """
    times: list[list[float]] = [[] for _ in sessions]
    begun = time.perf_counter()
    for i in range(WARM_UP + rounds):
        for each, taken in zip(sessions, times, strict=True):
            clock = time.perf_counter()
            run(each, image)
            taken.append(time.perf_counter() - clock)
        if i > WARM_UP and time.perf_counter() - begun > seconds:
            break
    return [1000 * statistics.median(taken[WARM_UP:]) for taken in times]
