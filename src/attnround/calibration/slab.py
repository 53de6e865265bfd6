"""Memory of their own for values that stay while others come and go.

Between the short-lived tensors of a forward pass those that stay would leave holes in the heap, which grows then to
several times of what lives. In a slab a batch's values take the place of its earlier ones, on pages that are there.
"""

import mmap
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

T = TypeVar("T")
ALIGNMENT = 64  # bytes, a line of a processor's cache


class Slab:
    """Holds the values of one batch. It is made anew where they need more room, or less than half of it."""

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.uint8)

    def hold(self, values: T) -> T:
        """The same values in this memory, in place of those it held; all but dense tensors on the CPU stay as they are.

        values: a tensor or a tree of them, some of which may lie here already.
        """
        leaves, form = pytree.tree_flatten(values)
        dense = {id(each): each for each in leaves if isinstance(each, Tensor) and is_dense(each)}
        size = sum(_rounded(each.nbytes) for each in dense.values())
        is_new = not len(self.memory) / 2 <= size <= len(self.memory)
        memory = _pages(size) if is_new else self.memory
        held: dict[int, Tensor] = {}
        here = self.memory.untyped_storage().data_ptr()
        staged = {
            key: each.clone() if not is_new and each.untyped_storage().data_ptr() == here else each
            for key, each in dense.items()
        }
        place = 0
        for key, each in staged.items():
            held[key] = memory[place : place + each.nbytes].view(each.dtype).as_strided(each.shape, each.stride())
            held[key].copy_(each)
            place += _rounded(each.nbytes)
        self.memory = memory
        return pytree.tree_unflatten([held.get(id(each), each) for each in leaves], form)


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor is on the CPU, learned by nothing, and its values lie side by side, in whatever order."""
    if tensor.device.type != "cpu" or isinstance(tensor, torch.nn.Parameter) or not tensor.numel():
        return False
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def _rounded(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def _pages(num_bytes: int) -> Tensor:
    """Bytes that the system gives, and has back when they are freed: apart from the heap."""
    return torch.frombuffer(mmap.mmap(-1, max(num_bytes, 1)), dtype=torch.uint8)
