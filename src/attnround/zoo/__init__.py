"""Float models: timm's by name, one's own by a function; weights from a checkpoint."""

from attnround.lazy import lazily
from attnround.zoo.blueprint import Blueprint

__all__ = ["Blueprint", "ModuleModel", "TimmModel", "hub_id"]
__getattr__ = lazily(__name__, {"TimmModel": "build", "hub_id": "build", "ModuleModel": "module"})  # build needs timm
