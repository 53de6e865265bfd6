"""From an image's pixels to what the model takes: as steps to read, and as the head of an ONNX graph.

An image is uint8 [height, width, channels], RGB or grey. Image files are resized, cropped in the middle and normalised,
as timm's evaluation transform does it with Pillow; data sets of arrays are only normalised. In a graph as in Pillow a
resized image is rounded to whole pixel values after each direction; a few differ by 1 of 255, and of some sizes 2 in
100 by more (tests/deploy/test_preprocessing.py).
"""

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attnround.errors import InputError, check_number

INPUT = "images"
MODES = {"bilinear": "linear", "bicubic": "cubic"}  # interpolation -> ONNX's word for it
CONFIG = ("mean", "std", "crop_pct", "crop_mode", "interpolation")
LEAST_CROP = 0.1  # of an image's side: next to nothing would make it so large that it fills the memory
NO_PIXELS = 1.0  # percent of values that may be outside of a pixel's range: resizing overshoots a little
OLDEST = 18  # the opset from which Resize filters as Pillow does
PILLOWS_CUBIC = -0.5


def plain_config(given: Mapping[str, Any]) -> dict[str, object]:
    """What of a data config is done to images, as a file holds it. Raises InputError for what cannot be done."""
    if not isinstance(given, Mapping):
        raise InputError(f"preprocessing={given!r}: give a dictionary with mean and std, as timm's data config is")
    config = {name: given[name] for name in CONFIG if given.get(name) is not None}
    for name, above in (("mean", None), ("std", 0)):
        if name not in config:
            continue
        try:
            values = [float(each) for each in given[name]]
        except (TypeError, ValueError) as error:
            raise InputError(f"preprocessing {name}={given[name]}: give a number for each channel") from error
        for each in values:
            check_number(f"preprocessing {name}", each, above=above)
        config[name] = values
    if "crop_pct" in config:
        with contextlib.suppress(TypeError, ValueError):
            config["crop_pct"] = float(given["crop_pct"])
        check_number("preprocessing crop_pct", config["crop_pct"], least=LEAST_CROP, most=1)
    return config


def steps_of(preprocessing: dict, are_files: bool) -> list[dict]:
    """What is done to an image, in order; preprocessing: timm's data config; are_files: images are resized.

    Raises InputError for what these steps cannot say.
    """
    if preprocessing.get("mean") is None or preprocessing.get("std") is None:
        raise InputError(
            "nothing says how images are normalised: give preprocessing its mean and std, model.preprocessing on the "
            "command line"
        )
    num_channels, height, width = preprocessing["input_size"]
    channels = {name: list(preprocessing[name]) for name in ("mean", "std")}
    for name, values in channels.items():
        if len(values) != num_channels:
            raise InputError(f"preprocessing {name}={values}: give a value for each of {num_channels} channels")
    last: list[dict] = [{"step": "divide", "by": 255}, {"step": "normalise", **channels}, {"step": "channels_first"}]
    if not are_files:
        return last
    if preprocessing.get("interpolation") is None:
        raise InputError(f"crop_pct={preprocessing['crop_pct']}: give interpolation too, bilinear or bicubic")
    mode = preprocessing.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise InputError(f"crop_mode={mode}: there are center and squash")
    sides = [math.floor(side / preprocessing["crop_pct"]) for side in (height, width)]
    if mode == "center" and sides[0] != sides[1]:
        raise InputError(f"input_size={preprocessing['input_size']}: center is of squares, give squash")
    size: dict = {"shorter_side": sides[0]} if mode == "center" else {"height": sides[0], "width": sides[1]}
    resize: dict = {"step": "resize", **size, "interpolation": preprocessing["interpolation"], "antialias": True}
    return [resize, {"step": "crop_centre", "height": height, "width": width}, *last]


def described(preprocessing: dict, steps: list[dict]) -> dict:
    """The JSON that lies beside a graph: what an image is, what is done to it, and what the graph takes."""
    channels = preprocessing["input_size"][0]
    return {
        "image": {"type": "uint8", "layout": "HWC", "channels": {1: "grey", 3: "RGB"}.get(channels, str(channels))},
        "steps": steps,
        "input": {"name": INPUT, "type": "float32", "shape": ["batch", *preprocessing["input_size"]]},
    }


def with_head(model: Any, steps: list[dict], channels: int) -> Any:
    """An ONNX model whose input is uint8 [batch, height, width, channels], of images of any one size.

    Raises InputError where a step has no form in its opset, or in none.
    """
    from onnx import TensorProto, helper

    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if resizes(steps) and opset < OLDEST:
        raise InputError(f"opset={opset}: resizing in the graph needs {OLDEST} or newer")
    for interpolation in (step["interpolation"] for step in steps if step["step"] == "resize"):
        if interpolation not in MODES:
            raise InputError(f"interpolation={interpolation}: in a graph there are {' and '.join(MODES)}")
    head = _Head()
    for step in steps:
        name = step["step"]
        options = {key: value for key, value in step.items() if key != "step"}
        getattr(head, name)(**options)
    inner = f"{INPUT}.normalised"
    for node in model.graph.node:
        for i, each in enumerate(node.input):
            if each == INPUT:
                node.input[i] = inner
    head.nodes[-1].output[0] = inner
    rest = list(model.graph.node)
    model.graph.ClearField("node")
    model.graph.node.extend([*head.nodes, *rest])
    model.graph.initializer.extend(head.constants)
    size = ["batch", "height", "width", channels]
    if not resizes(steps):
        taken = next(each for each in model.graph.input if each.name == INPUT).type.tensor_type.shape.dim
        size = ["batch", taken[2].dim_value, taken[3].dim_value, channels]
    others = [each for each in model.graph.input if each.name != INPUT]
    model.graph.ClearField("input")
    model.graph.input.extend([helper.make_tensor_value_info(INPUT, TensorProto.UINT8, size), *others])
    return model


def resizes(steps: list[dict]) -> bool:
    """Whether the size of an image is changed."""
    return any(step["step"] in ("resize", "crop_centre") for step in steps)


def pixels_of(images: Tensor, preprocessing: dict) -> Tensor:
    """The pixels, uint8 [N, H, W, C], of normalised images [N, C, H, W]."""
    values = _pixel_values(images, *_channels(preprocessing))
    return values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def as_pixels(images: Tensor, preprocessing: dict) -> Tensor:
    """Normalised images [N, C, H, W] as whole pixel values make them. Raises InputError where none come near."""
    mean, std = _channels(preprocessing)
    values = _pixel_values(images, mean, std)
    outside = 100 * ((values < -0.5) | (values > 255.5)).double().mean().item()
    if outside > NO_PIXELS:
        raise InputError(
            f"preprocessing mean={preprocessing['mean']}, std={preprocessing['std']}: {outside:.0f} % of the values of "
            "the calibration images are of no pixel then: give those that the images went through"
        )
    return (values.round().clamp(0, 255) / 255 - mean) / std


def _channels(preprocessing: dict) -> tuple[Tensor, Tensor]:
    """Mean and std [C, 1, 1]."""
    mean, std = (torch.tensor(preprocessing[name])[:, None, None] for name in ("mean", "std"))
    return mean, std


def _pixel_values(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """What pixels would make normalised images: 0 to 255, or beyond where none does."""
    return (images * std + mean) * 255


class _Head:
    """Nodes as the steps add them; a value is float32 [batch, channels, height, width] from the first step on."""

    def __init__(self) -> None:
        from onnx import TensorProto

        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.at = INPUT
        self.at = self.node("Transpose", self.at, perm=[0, 3, 1, 2])
        self.at = self.node("Cast", self.at, to=TensorProto.FLOAT)

    def resize(
        self, interpolation: str, antialias: bool, shorter_side: int = 0, height: int = 0, width: int = 0
    ) -> None:
        if shorter_side:
            sides = self.sides()
            shorter = self.node("ReduceMin", sides, keepdims=1)
            wanted = self.node("Div", self.node("Mul", sides, self.integers([shorter_side])), shorter)
        else:
            wanted = self.integers([height, width])
        for axis, other in ((3, 2), (2, 3)):  # rows first, to whole numbers, then columns: as Pillow does
            sizes = [self.node("Shape", self.at, start=0, end=2), "", ""]
            sizes[axis - 1] = self.node("Slice", wanted, *map(self.integers, ([axis - 2], [axis - 1])))
            sizes[other - 1] = self.node("Shape", self.at, start=other, end=other + 1)
            resized = self.node(
                "Resize", self.at, "", "", self.node("Concat", *sizes, axis=0), mode=MODES[interpolation],
                antialias=int(antialias), cubic_coeff_a=PILLOWS_CUBIC, coordinate_transformation_mode="half_pixel",
            )  # fmt: skip
            self.at = self.node("Clip", self.node("Round", resized), self.floats(0.0), self.floats(255.0))

    def crop_centre(self, height: int, width: int) -> None:
        """Python and ONNX both round a half to the even number, as torchvision's CenterCrop does."""
        from onnx import TensorProto

        size = self.integers([height, width])
        over = self.node("Cast", self.node("Sub", self.sides(), size), to=TensorProto.FLOAT)
        half = self.node("Round", self.node("Mul", over, self.floats(0.5)))
        start = self.node("Cast", half, to=TensorProto.INT64)
        self.at = self.node("Slice", self.at, start, self.node("Add", start, size), self.integers([2, 3]))

    def divide(self, by: float) -> None:
        self.at = self.node("Div", self.at, self.floats(float(by)))

    def normalise(self, mean: list[float], std: list[float]) -> None:
        centred = self.node("Sub", self.at, self.channels(mean))
        self.at = self.node("Div", centred, self.channels(std))

    def channels_first(self) -> None:
        """They are already."""

    def sides(self) -> str:
        return self.node("Shape", self.at, start=2, end=4)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"{INPUT}.{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def integers(self, values: list[int]) -> str:
        return self._constant("INT64", [len(values)], values)

    def floats(self, value: float) -> str:
        return self._constant("FLOAT", [], [value])

    def channels(self, values: list[float]) -> str:
        return self._constant("FLOAT", [len(values), 1, 1], values)

    def _constant(self, kind: str, shape: list[int], values: list) -> str:
        from onnx import TensorProto, helper

        name = f"{INPUT}.constant_{len(self.constants)}"
        self.constants.append(helper.make_tensor(name, getattr(TensorProto, kind), shape, values))
        return name
