"""Post-training quantization experiments: Attention Round against its rivals, bits by lossy coding length."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__version__ = "0.1.0"


def load(path: str | Path) -> nn.Module:
    """The model of a run's quantized.safetensors, in eval mode: its logits are those that were measured, to the bit.

    `preprocessing` (timm's data config), `num_classes` and `about` (the file's metadata) are its attributes.
    Raises attnround.errors.InputError where the file is missing, damaged, of something else or too new.
    """
    from attnround.deploy.loading import load  # torch and timm only where a model is wanted

    return load(path)
