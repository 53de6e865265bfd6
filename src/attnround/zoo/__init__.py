"""timm's side: build a float model, with weights from a checkpoint."""

from attnround.lazy import lazily
from attnround.zoo.blueprint import Blueprint

__all__ = ["Blueprint", "TimmModel", "hub_id"]
__getattr__ = lazily(__name__, {"TimmModel": "build", "hub_id": "build"})  # which needs timm
