"""Post-training quantization experiments: Attention Round against its rivals, bits by lossy coding length."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from attnround import bits as bits
    from attnround import quantization as quantization
    from attnround import reconstruction as reconstruction
    from attnround.api import Prepared, Quantized, quantize

__version__ = "0.1.0"
__all__ = ["Prepared", "Quantized", "load", "quantize"]
ROOMS = ("bits", "quantization", "reconstruction")  # whose objects `quantize` takes


def load(path: str | Path, model: nn.Module | Callable[[], nn.Module] | None = None) -> nn.Module:
    """The model of a quantized.safetensors, in eval mode: its logits are those that were measured, to the bit.

    model: the float module, or a function that makes it, where the file is of the caller's own; its weights are not
    looked at. `preprocessing` (timm's data config), `num_classes` and `about` (the file's metadata) are its attributes.
    Raises attnround.errors.InputError where the file is missing, damaged, of something else or too new.
    """
    from attnround.deploy.loading import load  # torch and timm only where a model is wanted

    return load(path, model)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """The library's names, imported when they are first asked for."""
        import importlib

        if name in __all__:
            return getattr(importlib.import_module("attnround.api"), name)
        if name in ROOMS:
            return importlib.import_module(f"attnround.{name}")
        raise AttributeError(f"module attnround has no attribute {name}")
