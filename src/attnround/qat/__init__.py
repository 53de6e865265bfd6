"""Quantization-aware training: the rival with labels, from the same grid and allocation."""

from attnround.qat.finetune import Tuned, finetune
from attnround.qat.settings import Lsq, NoTraining

__all__ = ["Lsq", "NoTraining", "Tuned", "finetune"]
