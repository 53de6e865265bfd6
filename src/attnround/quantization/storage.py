"""How many bytes a quantized model takes in a file, and a digest of its tensors."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

FLOAT_BYTES = 4
RANGE_BYTES = FLOAT_BYTES + 1  # of a quantized input: its scale and a byte of zero point


def layer_bytes(
    num_levels: int, num_channels: int, bit_width: int, symmetric: bool, quantized_input: bool
) -> dict[str, int]:
    """Bytes of a quantized layer by kind.

    weights: levels at their bits, in whole bytes; scales: float32, one a channel; zero_points: a byte a channel where
    the grid is asymmetric; biases: float32; activations: for a quantized input, a float32 scale and a byte of zero
    point.
    """
    return {
        "weights": (num_levels * bit_width + 7) // 8,
        "scales": num_channels * FLOAT_BYTES,
        "zero_points": 0 if symmetric else num_channels,
        "biases": num_channels * FLOAT_BYTES,
        "activations": RANGE_BYTES if quantized_input else 0,
    }


def float_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of what stays float, as float32; a table of integers as it is."""
    return sum(
        value.numel() * (FLOAT_BYTES if value.is_floating_point() else value.element_size()) for value in state.values()
    )


def state_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 of named tensors, bit for bit, but for a batch norm's count of batches."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {list(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
