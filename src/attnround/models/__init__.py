"""timm's side: build a model, fold its batch norms, order its layers, cut it into units, swap in quantized ones."""

from attnround.models.build import TimmModel
from attnround.models.fold import fold_batch_norms, normed_layers
from attnround.models.layers import Layer, find_layers, left_float, swap_layers
from attnround.models.trace import QUANTIZABLE
from attnround.models.units import Unit, cut

__all__ = [
    "QUANTIZABLE",
    "Layer",
    "TimmModel",
    "Unit",
    "cut",
    "find_layers",
    "fold_batch_norms",
    "left_float",
    "normed_layers",
    "swap_layers",
]
