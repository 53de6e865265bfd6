"""Levels of 2 to 8 bits side by side without gaps: n levels of b bits take ceil(n b / 8) bytes."""

import numpy as np
import torch
from torch import Tensor

from attnround.quantization.grid import Grid


def pack(levels: Tensor, grid: Grid) -> Tensor:
    """Bytes, uint8 [ceil(n b / 8)], of n levels of any shape within the grid, in row-major order.

    Level i is stored as level - qmin, an unsigned number, whose bits are the bits i b to i b + b - 1 of the stream, the
    lowest first; bit k of the stream is bit k mod 8 of byte k // 8. What is left of the last byte is zero.

    >>> pack(torch.tensor([-4, 3, 1]), Grid(3)).tolist()  # 000, 111 and 101, from the right: 01|111|000 and 1
    [120, 1]
    """
    unsigned = (levels.cpu().to(torch.int16) - grid.qmin).to(torch.uint8).numpy().reshape(-1, 1)
    bits = np.unpackbits(unsigned, axis=1, count=grid.bit_width, bitorder="little")
    return torch.from_numpy(np.packbits(bits.reshape(-1), bitorder="little"))


def unpack(packed: Tensor, shape: tuple[int, ...], grid: Grid) -> Tensor:
    """The levels of this shape, in the grid's integer type: unpack(pack(levels), levels.shape) equals levels."""
    stream = np.unpackbits(packed.numpy(), count=int(np.prod(shape)) * grid.bit_width, bitorder="little")
    unsigned = np.packbits(stream.reshape(-1, grid.bit_width), axis=1, bitorder="little")
    return (torch.from_numpy(unsigned).to(torch.int16) + grid.qmin).to(grid.dtype).reshape(shape)
