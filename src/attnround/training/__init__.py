"""Supervised training with labels: the recipe that makes the shipped float checkpoints."""

from typing import TYPE_CHECKING

from attnround.lazy import lazily
from attnround.training.recipe import Recipe

if TYPE_CHECKING:
    from attnround.training.module import SupervisedModule
else:
    __getattr__ = lazily(__name__, {"SupervisedModule": "module"})  # which needs Lightning

__all__ = ["Recipe", "SupervisedModule"]
