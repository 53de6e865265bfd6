"""What the drivers of rivals that are no package share: their files, for a CPU, and our networks in their blocks."""

import copy
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from cell import Case
from torch import nn

GIVEN = "CHECKOUT"  # the variable of the environment that says where the clone is


def on_cpu(*folders: str) -> None:
    """Make modules of these folders of the clone importable, from a copy in which `cuda` is the CPU."""
    place = Path(tempfile.mkdtemp()) / "checkout"
    shutil.copytree(os.environ[GIVEN], place, ignore=shutil.ignore_patterns(".git"))
    for file in place.rglob("*.py"):
        text = file.read_text()
        file.write_text(text.replace("'cuda'", "'cpu'").replace(".cuda()", ""))
    sys.path[:0] = [str(place / folder) for folder in folders]


def revision() -> str:
    """Of the clone."""
    command = ["git", "-C", os.environ[GIVEN], "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


@torch.no_grad()
def in_blocks(case: Case, basic_block: type[nn.Module], inverted_residual: type[nn.Module]) -> nn.Sequential:
    """A copy of the float network as a sequence with the rival's own classes of blocks, which it knows them by.

    Raises ValueError for a network that cannot be written so.
    """
    net = copy.deepcopy(case.module)
    if hasattr(net, "layer1"):
        parts = [net.conv1, net.bn1, net.act1, net.maxpool]
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            parts += [_basic(each, basic_block) for each in stage]
        last = net.fc
    elif hasattr(net, "conv_stem"):
        parts = [net.conv_stem, *_apart(net.bn1)]
        parts += [_inverted(each, inverted_residual) for stage in net.blocks for each in stage]
        parts += [net.conv_head, *_apart(net.bn2)]
        last = net.classifier
    else:
        raise ValueError("no ResNet of basic blocks and no MobileNetV2: the rival's code has no blocks for it")
    found = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()
    few = case.images[:8]
    if not torch.allclose(found(few), case.module(few), rtol=1e-3, atol=1e-4):
        raise ValueError("written in the rival's blocks the network gives other logits")
    return found


def _apart(norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A batch norm of timm's with an activation behind it as the two."""
    plain = nn.BatchNorm2d(norm.num_features, norm.eps)
    plain.load_state_dict(norm.state_dict())
    return plain, nn.ReLU6()


def _basic(block: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A basic block of a ResNet."""
    conv = block.conv1
    found = kind(conv.in_channels, conv.out_channels, conv.stride, block.downsample, norm_layer=nn.BatchNorm2d)
    for name in ("conv1", "bn1", "conv2", "bn2"):
        setattr(found, name, getattr(block, name))
    return found


def _inverted(block: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """An inverted residual of a MobileNetV2; without an expansion it begins with the depthwise convolution."""
    names = [("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")]
    if not hasattr(block, "conv_pwl"):
        names = [("conv_dw", "bn1"), ("conv_pw", "bn2")]
    first, depthwise = getattr(block, names[0][0]), block.conv_dw
    last = getattr(block, names[-1][0])
    expansion = depthwise.out_channels / first.in_channels
    found = kind(first.in_channels, last.out_channels, depthwise.stride[0], expansion)
    parts: list[nn.Module] = []
    for conv, norm in names:
        parts += [getattr(block, conv), *_apart(getattr(block, norm))]
    found.conv = nn.Sequential(*parts[:-1])  # the last convolution has no activation
    found.use_res_connect = block.has_skip
    return found
