"""onnxruntime's side: which opset it runs, and an ONNX file as a module."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from attnround.deploy.file import Content
from attnround.deploy.marked import float_graph
from attnround.deploy.opened import Opened
from attnround.deploy.opset import OLDEST
from attnround.deploy.preprocessing import pixels_of, resizes, with_head
from attnround.deploy.qdq import NARROW, packed, quantized_graph, storage_bits, wanted_form, wanted_opset
from attnround.deploy.seal import ENTRY, check_seal, describe, preprocessing_of, read_about, read_bytes, seal
from attnround.deploy.session import AS_WRITTEN, CPU, Provider, need_onnx, run, session
from attnround.errors import InputError, check_number

GIVE = "the quantized.onnx that src/export.py writes"


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


def checked_opset(opset: int | None) -> int:
    """The newest there is. Raises InputError where one is given that is not there."""
    newest = newest_opset()
    if opset is not None:
        check_number("opset", opset, least=OLDEST, most=newest, whole=True)
    return newest


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


class OnnxModel(Opened):
    """An ONNX file as a module: images [N, C, H, W] -> logits, or several outputs by their names.

    It takes its images from the CPU and gives its logits on their device, whatever the provider runs on. Of a file that
    takes pixels, images are turned into these; where it resizes them too, raises InputError: see `of_pixels`.
    """

    def __init__(
        self, raw: bytes, about: dict, source: str, settings: dict[str, str] = AS_WRITTEN, provider: Provider = CPU
    ):
        super().__init__(about)
        self.source, self.resizes = source, resizes(about.get("steps", []))
        self.session = session(raw, source, settings, provider)
        if len(self.session.get_outputs()) == 1:
            self.logits_at = None

    def taken(self, images: Tensor) -> Tensor:
        """What the file takes of images, on the CPU: these, or their pixels."""
        return pixels_of(images.cpu(), self.preprocessing) if "steps" in self.about else images.cpu()

    def of_pixels(self, pixels: Tensor) -> Tensor | dict[str, Tensor]:
        """What a file that takes pixels gives for some, uint8 [N, height, width, C]."""
        return run(self.session, pixels)

    def forward(self, images: Tensor) -> Tensor:
        if self.resizes:
            raise InputError(f"{self.source} resizes image files itself: give it to verify, or export without that")
        return pytree.tree_map(lambda each: each.to(images.device), run(self.session, self.taken(images)))


def onnx_file(
    model: nn.Module, content: Content, about: dict, opset: int | None = None, weights: str = "runtime"
) -> tuple[bytes, Any]:
    """The bytes of a quantized model as ONNX, and the graph of its float operations that it was made from.

    content: of the model's file; opset: None takes the oldest that has the types of the model's bits, or the newest
    there is; weights: of `FORMS`. Raises InputError for an opset that is not there.
    """
    newest = checked_opset(opset)
    form = wanted_form(weights, content.placement)
    opset = opset or min(wanted_opset(content.layers), newest)
    floats = float_graph(model, opset)
    graph = quantized_graph(floats, content.layers, opset, form, content.edges, content.placement)
    return sealed_onnx(graph, about)[0], floats


def with_steps(raw: bytes, steps: list[dict], about: dict) -> tuple[bytes, bytes]:
    """The bytes of an ONNX file that does these steps first, and of one that does them but for resizing.

    The other takes pixels of images of the model's size, so that it can be compared. Raises InputError as `with_head`
    does.
    """
    same_size = _with_head(raw, [step for step in steps if not resizes([step])], about)
    return _with_head(raw, steps, about) if resizes(steps) else same_size, same_size


def _with_head(raw: bytes, steps: list[dict], about: dict) -> bytes:
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


def open_onnx(
    raw: bytes, path: str | Path, settings: dict[str, str] = AS_WRITTEN, provider: Provider = CPU
) -> OnnxModel:
    """The model of a file's bytes. Raises InputError where they are damaged, of something else, too new or not run."""
    about = about_onnx(read_graph(raw, path), path)
    check_seal(raw, about, path)
    return OnnxModel(raw, about, str(path), settings, provider)


def opened(raw: bytes, path: str | Path, form: str) -> list[OnnxModel]:
    """The model as it is written and as onnxruntime runs it by default; not of the literal form, which it may refuse.

    Raises InputError as `open_onnx` does.
    """
    return [open_onnx(raw, path, settings) for settings in ((AS_WRITTEN,) if form == "literal" else (AS_WRITTEN, {}))]


def read_graph(raw: bytes, path: str | Path) -> Any:
    """The ONNX model of a file's bytes. Raises InputError where they are no ONNX file."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(raw)
    except (DecodeError, ValueError) as error:
        raise InputError(f"{path} is no whole ONNX file: it is cut short, damaged or of something else") from error


def about_onnx(model: Any, path: str | Path) -> dict:
    """What an ONNX model says of itself, not to be trusted before its checksum is right. Raises InputError."""
    entries = {each.key: each.value for each in model.metadata_props}
    return read_about(entries.get(ENTRY), path, GIVE)
