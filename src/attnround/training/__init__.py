"""Supervised training with labels: the recipe that makes the shipped float checkpoints."""

from attnround.training.module import Recipe, SupervisedModule

__all__ = ["Recipe", "SupervisedModule"]
