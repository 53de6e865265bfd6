"""Float models: timm's by name, one's own by a function; weights from a checkpoint."""

from typing import TYPE_CHECKING

from attnround.lazy import lazily
from attnround.zoo.blueprint import Blueprint

if TYPE_CHECKING:
    from attnround.zoo.build import TimmModel, hub_id
    from attnround.zoo.module import ModuleModel
    from attnround.zoo.names import class_names
else:
    __getattr__ = lazily(
        __name__, {"TimmModel": "build", "hub_id": "build", "ModuleModel": "module", "class_names": "names"}
    )

__all__ = ["Blueprint", "ModuleModel", "TimmModel", "class_names", "hub_id"]
