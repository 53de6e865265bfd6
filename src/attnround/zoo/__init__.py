"""timm's side: build a float model, with weights from a checkpoint."""

from attnround.lazy import lazily
from attnround.zoo.blueprint import Blueprint

__all__ = ["Blueprint", "TimmModel"]
__getattr__ = lazily(__name__, {"TimmModel": "build"})  # which needs timm
