"""Rounding methods, a file each. A method is a distribution over the levels for every weight, and a decision."""

from attnround.quantization.rounding.adaround import AdaRound
from attnround.quantization.rounding.attention_round import AttentionRound
from attnround.quantization.rounding.base import Decided, Objective, Quadratic, Rounding, RoundingMethod
from attnround.quantization.rounding.coordinate_descent import CoordinateDescent
from attnround.quantization.rounding.flexround import FlexRound
from attnround.quantization.rounding.gptq import GPTQ
from attnround.quantization.rounding.nearest import Nearest
from attnround.quantization.rounding.stochastic import Stochastic

__all__ = [
    "GPTQ",
    "AdaRound",
    "AttentionRound",
    "CoordinateDescent",
    "Decided",
    "FlexRound",
    "Nearest",
    "Objective",
    "Quadratic",
    "Rounding",
    "RoundingMethod",
    "Stochastic",
]
