"""Rounding methods, a file each. A method is a distribution over the levels for every weight, and a decision."""

from attnround.quantization.rounding.adaround import AdaRound
from attnround.quantization.rounding.attention_round import AttentionRound
from attnround.quantization.rounding.base import Quantizer, Rounding
from attnround.quantization.rounding.nearest import Nearest

__all__ = ["AdaRound", "AttentionRound", "Nearest", "Quantizer", "Rounding"]
