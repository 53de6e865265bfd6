"""timm's side: build a model, fold its batch norms, order its layers, swap in quantized ones."""

from attnround.models.build import TimmModel
from attnround.models.fold import fold_batch_norms
from attnround.models.layers import Layer, find_layers, swap_layers

__all__ = ["Layer", "TimmModel", "find_layers", "fold_batch_norms", "swap_layers"]
