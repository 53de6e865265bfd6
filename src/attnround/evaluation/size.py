"""What a model weighs."""

from torch import nn

from attnround.quantization.layers import float_state, quantized_edges, quantized_layers
from attnround.quantization.storage import RANGE_BYTES, float_bytes, layer_bytes


def stored_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of what a quantized model's file holds, by kind; its header comes on top.

    The kinds of `layer_bytes`, summed over layers and edges, and float: all else.
    """
    size = dict.fromkeys(("weights", "scales", "zero_points", "biases", "activations"), 0)
    for layer in quantized_layers(model).values():
        grid = layer.grid
        kinds = layer_bytes(
            layer.levels.numel(), len(layer.scale), grid.bit_width, grid.symmetric, layer.activation is not None
        )
        for kind, count in kinds.items():
            size[kind] += count
    size["activations"] += RANGE_BYTES * len(quantized_edges(model))
    return size | {"float": float_bytes(float_state(model))}


def size_mib(model: nn.Module) -> float:
    """MiB of `stored_bytes`."""
    return sum(stored_bytes(model).values()) / 2**20
