"""timm's networks at 64 pixels, cut down to a block a stage where they are large."""

import copy
import functools

import timm
import torch
from torch import nn

from attnround.graph import Captured, capture

IMAGE = torch.zeros(1, 3, 64, 64)
SMALL = {
    "resnet18": {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 48)},
    "densenet121": {"block_config": (2, 2, 2), "growth_rate": 8},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)},
    "swin_tiny_patch4_window7_224": {
        "img_size": 64, "window_size": 4, "depths": (2, 2), "embed_dim": 24, "num_heads": (2, 4),
    },
    "Levit": {
        "img_size": 64, "embed_dim": (16, 24, 32), "key_dim": 8, "depth": (1, 1, 1), "num_heads": (2, 3, 4),
    },
    "vgg11_bn": {"mlp_ratio": 0.01},
    "test_efficientnet": {"pad_type": "same"},  # TF's padding, which is an operation of its own
    "test_vit": {"img_size": 64},
}  # fmt: skip


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    make = functools.partial(timm.create_model, name) if timm.is_model(name) else getattr(timm.models, name)
    return make(**SMALL.get(name, {})).eval()


def captured(name: str) -> Captured:
    """A copy of the network as it was captured, once in a process."""
    return copy.deepcopy(_captured(name))


@functools.cache
def _captured(name: str) -> Captured:
    return capture(small(name), IMAGE)
