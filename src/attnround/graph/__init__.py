"""A model as it runs: captured as a graph, its batch norms folded, its layers in order, cut into units."""

from attnround.graph.attention import attends
from attnround.graph.batches import in_batches
from attnround.graph.capture import Captured, capture, captured, check_names, unwrapped
from attnround.graph.edges import beside, find_edges, has_integer_bias, sources, with_edges
from attnround.graph.equalize import CrossLayer, Equalization, NoEqualization
from attnround.graph.fold import FoldedNorm, fold_batch_norms, norms_to_fold
from attnround.graph.kinds import QUANTIZABLE, channels_last
from attnround.graph.layer_norms import LayerNorms
from attnround.graph.layers import find_layers, left_float, swap_layers
from attnround.graph.outputs import Output, class_logits, joined, logits_in, tensors
from attnround.graph.pairs import cap_channels, find_caps
from attnround.graph.units import Unit, cut

__all__ = [
    "QUANTIZABLE",
    "Captured",
    "CrossLayer",
    "Equalization",
    "FoldedNorm",
    "LayerNorms",
    "NoEqualization",
    "Output",
    "Unit",
    "attends",
    "beside",
    "cap_channels",
    "capture",
    "captured",
    "channels_last",
    "check_names",
    "class_logits",
    "cut",
    "find_caps",
    "find_edges",
    "find_layers",
    "fold_batch_norms",
    "has_integer_bias",
    "in_batches",
    "joined",
    "left_float",
    "logits_in",
    "norms_to_fold",
    "sources",
    "swap_layers",
    "tensors",
    "unwrapped",
    "with_edges",
]
