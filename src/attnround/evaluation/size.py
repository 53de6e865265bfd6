"""What a model weighs."""

from torch import nn

from attnround.quantization.layers import QuantizedLayer

FLOAT_BITS = 32


def size_mib(model: nn.Module) -> float:
    """MiB of all parameters as stored: packed levels, a float32 scale a channel, float32 for all else.

    An asymmetric grid stores a zero point of its bit width a channel too.
    """
    bits, inside = 0, set()
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            width = module.grid.bit_width
            bits += module.levels.numel() * width + module.scale.numel() * FLOAT_BITS
            bits += 0 if module.grid.symmetric else module.zero_point.numel() * width
            inside.add(id(module.layer.weight))
    bits += sum(parameter.numel() * FLOAT_BITS for parameter in model.parameters() if id(parameter) not in inside)
    return bits / 8 / 2**20
