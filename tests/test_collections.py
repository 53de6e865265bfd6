"""Models of torchvision and transformers through `attnround.quantize`: what they give keeps its form, up to a file."""

from functools import partial

import pytest
import torch
from benchmarks.families import awaken, build, difference, plain
from torch import nn
from torchvision.models import squeezenet1_1
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.fcn import FCN, FCNHead
from transformers.modeling_outputs import ImageClassifierOutput, ImageClassifierOutputWithNoAttention

import attnround
from attnround.graph import tensors
from tests.slow import parameters


def segmenter() -> nn.Module:
    """torchvision's fully convolutional head on a small backbone, with an auxiliary head."""
    backbone = IntermediateLayerGetter(squeezenet1_1().features, {"7": "aux", "12": "out"})
    return FCN(backbone, FCNHead(512, 4), FCNHead(256, 4))


MODELS = {  # name -> what makes it, the side of its images, the form of what it gives, and the tensors in it
    "torchvision classifier": (squeezenet1_1, 64, torch.Tensor, [""]),
    "torchvision segmentation": (segmenter, 32, dict, ["out", "aux"]),
    "transformers attention": (
        partial(build, "transformers", "ViTForImageClassification"), 32, ImageClassifierOutput, ["logits"],
    ),
    "transformers convolution": (
        partial(build, "transformers", "ResNetForImageClassification"), 64, ImageClassifierOutputWithNoAttention,
        ["logits"],
    ),
}  # fmt: skip


SLOW = {"torchvision classifier", "transformers convolution"}  # which ask the least of what others do not


@pytest.mark.parametrize("name", parameters(MODELS, SLOW))
@torch.no_grad()
def test_a_model_is_quantized_saved_loaded_and_exported(name, tmp_path):
    torch.manual_seed(0)
    make, side, form, keys = MODELS[name]
    net = make().eval()
    awaken(net)
    images = torch.randn(8, 3, side, side)
    found = attnround.quantize(net, images, bits=8, rounding="nearest", progress=False)
    expected, given = plain(net, images), found.model(images)
    assert difference(found.prepared.teacher(images), expected) < 1e-5  # float32, batch norms folded
    assert isinstance(given, form)
    assert list(tensors(given)) == keys
    assert 0 < difference(given, expected) < 0.05
    found.save(tmp_path / "it.safetensors")
    assert difference(attnround.load(tmp_path / "it.safetensors", model=make)(images), given) == 0
    assert found.export(tmp_path / "it.onnx") >= 99.9
