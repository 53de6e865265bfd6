"""Quantized models as a run leaves them: timm's, folded, rounded, some with quantized inputs."""

import copy
import functools

import pytest
import torch
from torch import nn

from attnround.calibration import attach_activations, calibrate_activations
from attnround.graph import CrossLayer, captured, channels_last, find_layers, fold_batch_norms, swap_layers, with_edges
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import Mse
from attnround.zoo import TimmModel

SMALL = {"input_size": [3, 32, 32]}
RESNET = TimmModel(
    "resnet18", random_init=True, num_classes=10, small_image_stem=True,
    arguments={"in_chans": 1, "channels": [8, 16, 16, 24], "layers": [1, 1, 1, 1]},
    preprocessing={"input_size": [1, 28, 28], "mean": [0.3], "std": [0.3]},
)  # fmt: skip
MODELS = {  # name: (TimmModel, the placement of its quantizers, None for float inputs, whether its grid is symmetric)
    "resnet": (RESNET, "inputs", True),
    "resnet between layers": (RESNET, "onnxruntime", True),
    "efficientnet": (
        TimmModel("test_efficientnet", random_init=True, num_classes=7, preprocessing=SMALL), "openvino", False,
    ),
    "relu6 equalized": (
        TimmModel(
            "test_efficientnet", random_init=True, num_classes=7, preprocessing=SMALL, arguments={"act_layer": "relu6"},
        ),
        "onnxruntime",
        True,
    ),
    "vit": (
        TimmModel(
            "vit_tiny_patch16_224", random_init=True, num_classes=5,
            arguments={"img_size": 32, "depth": 2, "embed_dim": 24}, preprocessing=SMALL,
        ),
        "inputs",
        True,
    ),
    "float inputs": (RESNET, None, False),
    "unfolded norms": (
        TimmModel(
            "densenet121", random_init=True, num_classes=4, preprocessing=SMALL,
            arguments={"block_config": [1, 1], "growth_rate": 8},
        ),
        None,
        True,
    ),
}  # fmt: skip


def images_for(model: nn.Module, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *model.preprocessing["input_size"], generator=generator)


@torch.no_grad()
def quantized(model: nn.Module, placement: str | None, symmetric: bool = True, equalized: bool = False) -> nn.Module:
    """All bit widths in turn, biases that are not zero, inputs at 8 bits or float."""
    fold_batch_norms(model)
    if equalized:
        CrossLayer().equalize(model, {}, images_for(model, 1))
    model = with_edges(channels_last(model), placement or "inputs")
    widths = {name: 2 + (i + 1) % 7 for i, name in enumerate(find_layers(model))}
    student = swap_layers(model, widths, ClipSearch(num_candidates=4, symmetric=symmetric))
    for name in widths:
        student.get_submodule(name).layer.bias.normal_(std=0.1)
    if placement:
        ranges = calibrate_activations(model, images_for(model, 8), Mse(), batch_size=8)
        attach_activations(student, ranges)
    return student.eval()


@functools.cache
def built(name: str) -> nn.Module:
    """A network as it was captured, once for all that differ in their quantizers alone."""
    torch.manual_seed(0)
    return captured(MODELS[name][0].build())


@functools.cache
def exported(name: str) -> tuple[nn.Module, dict]:
    """A quantized model and what its file should say of it."""
    settings, placement, symmetric = MODELS[name]
    model = copy.deepcopy(built(next(other for other in MODELS if MODELS[other][0] == settings)))
    torch.manual_seed(0)  # for the biases, whether the network was captured for this name or another
    about = {"model": settings.architecture(model), "data": "noise"}
    return quantized(model, placement, symmetric, "equalized" in name), about


@pytest.fixture
def small() -> tuple[nn.Module, dict]:
    return exported("resnet")
