"""What a model weighs."""

from torch import nn

from attnround.quantization.layers import float_state, quantized_layers

FLOAT_BYTES = 4


def stored_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of what a quantized model's file holds, by kind; its header comes on top.

    weights: levels at their bits, each layer's in whole bytes; scales: float32, one a channel; zero_points: a byte a
    channel where the grid is asymmetric; biases: float32; activations: a float32 scale and a byte of zero point for
    each quantized input; float: all else, as float32 (a table of integers as it is).
    """
    size = dict.fromkeys(("weights", "scales", "zero_points", "biases", "activations", "float"), 0)
    for layer in quantized_layers(model).values():
        num_channels = len(layer.scale)
        size["weights"] += (layer.levels.numel() * layer.grid.bit_width + 7) // 8
        size["scales"] += num_channels * FLOAT_BYTES
        size["zero_points"] += 0 if layer.grid.symmetric else num_channels
        size["biases"] += num_channels * FLOAT_BYTES
        size["activations"] += 0 if layer.activation is None else FLOAT_BYTES + 1
    for value in float_state(model).values():
        size["float"] += value.numel() * (FLOAT_BYTES if value.is_floating_point() else value.element_size())
    return size


def size_mib(model: nn.Module) -> float:
    """MiB of `stored_bytes`."""
    return sum(stored_bytes(model).values()) / 2**20
