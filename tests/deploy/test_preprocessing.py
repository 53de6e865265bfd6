"""The head of a graph against timm's evaluation transform, on images of many sizes."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from timm.data import create_transform

from attnround.deploy.preprocessing import INPUT, described, steps_of, with_head
from attnround.errors import InputError

CONFIG = {
    "input_size": (3, 64, 64), "interpolation": "bicubic", "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3),
    "crop_pct": 0.875, "crop_mode": "center",
}  # fmt: skip
LEVEL = 1 / 255 / 0.2  # one of 255, normalised


def identity(shape, opset=21):
    """A graph that gives its input back."""
    sizes = ["batch", *shape]
    graph = helper.make_graph(
        [helper.make_node("Identity", [INPUT], ["logits"])],
        "identity",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, sizes)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run(model, pixels):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {INPUT: pixels})[0]


def picture(height, width, channels=3, seed=0):
    """Smooth, with edges."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (9, 9, channels), dtype=np.uint8)
    layers = [
        Image.fromarray(coarse[:, :, i]).resize((width, height), Image.Resampling.NEAREST) for i in range(channels)
    ]
    noise = generator.integers(-20, 20, (height, width, channels))
    return np.clip(np.stack([np.asarray(each) for each in layers], 2).astype(int) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (73, 73), (100, 151), (301, 97), (480, 640), (40, 55)])
@pytest.mark.parametrize("mode", ["center", "squash"])
def test_the_head_does_what_timms_transform_does(interpolation, height, width, mode):
    config = CONFIG | {"interpolation": interpolation, "crop_mode": mode}
    pixels = picture(height, width)
    expected = create_transform(**config, is_training=False)(Image.fromarray(pixels)).numpy()
    found = run(with_head(identity(config["input_size"]), steps_of(config, are_files=True), 3), pixels[None])[0]
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.mean() < 0.25 * LEVEL
    assert (difference > 1.01 * LEVEL).mean() < 0.02  # onnxruntime's cubic filter of 97 pixels to 73
    assert difference.max() < 7 * LEVEL


def test_arrays_are_only_normalised():
    config = CONFIG | {"input_size": (1, 28, 28), "mean": (0.3,), "std": (0.35,)}
    pixels = picture(28, 28, 1)
    model = with_head(identity((1, 28, 28), opset=13), steps_of(config, are_files=False), 1)
    found = run(model, np.stack([pixels, pixels[::-1]]))
    expected = (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - 0.3) / 0.35
    np.testing.assert_allclose(found[0], expected.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[1], expected.flip(1).numpy(), rtol=0, atol=1e-6)


def test_the_steps_say_all_that_the_head_does():
    steps = steps_of(CONFIG, are_files=True)
    assert json.loads(json.dumps(described(CONFIG, steps)))["steps"] == steps
    assert [each["step"] for each in steps] == ["resize", "crop_centre", "divide", "normalise", "channels_first"]
    assert steps[0]["shorter_side"] == 73


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "lanczos"}, "bilinear and bicubic"),
        ({"crop_mode": "border"}, "center and squash"),
        ({"input_size": (3, 64, 96)}, "give squash"),
    ],
)
def test_what_a_graph_cannot_do_is_said_in_a_line(change, message):
    with pytest.raises(InputError, match=message):
        with_head(identity((3, 64, 64)), steps_of(CONFIG | change, are_files=True), 3)


def test_an_opset_without_such_a_resize_is_refused():
    with pytest.raises(InputError, match="18 or newer"):
        with_head(identity((3, 64, 64), opset=17), steps_of(CONFIG, are_files=True), 3)
