"""Supervised training with labels: the recipe that makes the shipped float checkpoints."""

from attnround.lazy import lazily
from attnround.training.recipe import Recipe

__all__ = ["Recipe", "SupervisedModule"]
__getattr__ = lazily(__name__, {"SupervisedModule": "module"})  # which needs Lightning
