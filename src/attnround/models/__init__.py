"""timm's side: build a float model, with weights from a checkpoint."""

from attnround.models.build import TimmModel

__all__ = ["TimmModel"]
