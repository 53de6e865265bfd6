"""Activations of all calibration images at one place of the network, within a budget of memory.

float32 where that fits; else bfloat16 where that fits; else float32 in a memory-mapped file. Inputs that a quantizer of
activations has rounded already are kept as its integer codes: a quarter of the memory, and exact.
"""

import contextlib
import mmap
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

APART = 2**20  # bytes of a tensor from which on it has memory of its own
STORAGES = ("float32", "bfloat16", "disk", "codes")


class ActivationCache:
    """[N, *shape], written in slices and read by index, as float32 on `device`.

    encode, decode: of the storage "codes", float32 -> uint8 and back; factor: multiplies all that is read. The file of
    the storage "disk" lies where TMPDIR says and is gone with the process, however that ends.
    """

    def __init__(
        self,
        num_images: int,
        shape: torch.Size,
        storage: str,
        device: torch.device | str = "cpu",
        encode: Callable[[Tensor], Tensor] | None = None,
        decode: Callable[[Tensor], Tensor] | None = None,
    ):
        self.storage, self.device, self.encode, self.decode = storage, torch.device(device), encode, decode
        self.factor = 1.0
        size = (num_images, *shape)
        if storage == "disk":
            with tempfile.TemporaryFile() as file:  # the map outlives the closed, nameless file
                self.data = torch.from_numpy(np.memmap(file, np.float32, "w+", shape=size))
        else:
            dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "codes": torch.uint8}[storage]
            self.data = torch.empty(size, dtype=dtype, device=device)

    def __len__(self) -> int:
        return len(self.data)

    def write(self, first: int, values: Tensor) -> None:
        """Values of the images from `first` on."""
        self.data[first : first + len(values)] = self.encode(values) if self.encode else values

    def __getitem__(self, images: Tensor | slice) -> Tensor:
        """The values of these images, in this order."""
        stored = self.data[images if isinstance(images, slice) else images.to(self.data.device)]
        stored = stored.to(self.device)
        values = self.decode(stored) if self.decode else stored.float()
        return values if self.factor == 1 else values * self.factor


class Slice:
    """Images first..last-1 of a cache, read when asked for."""

    def __init__(self, cache: ActivationCache, first: int, last: int):
        self.cache, self.first, self.last = cache, first, last

    def load(self) -> Tensor:
        return self.cache[self.first : self.last]


def apart(values: Tensor) -> Tensor:
    """A copy in memory of its own, which the system has back when it is freed; on a CPU, and of large ones alone.

    Where what stays long lies between what comes and goes, the heap is soon full of holes that nothing fits into.
    """
    if values.device.type != "cpu" or values.nbytes < APART or not hasattr(mmap, "MAP_ANONYMOUS"):
        return values
    memory = mmap.mmap(-1, values.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)  # a page is cleared when it is first written to: fewer of them
    copy = torch.frombuffer(memory, dtype=values.dtype)
    dense = values.is_contiguous() or (values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last))
    copy = copy.as_strided(values.shape, values.stride()) if dense else copy.view(values.shape)
    return copy.copy_(values)


def batches(first: int, last: int, size: int) -> Iterator[slice]:
    """The images first..last-1, at most `size` at a time.

    >>> list(batches(2, 7, 3))
    [slice(2, 5, None), slice(5, 7, None)]
    """
    for start in range(first, last, size):
        yield slice(start, min(start + size, last))


def budget_mib(cache_mib: float | None, device: torch.device | str) -> float:
    """The memory for activations in MiB: as given, else 2 GiB on a CPU and a quarter of a GPU's own memory."""
    if cache_mib is not None:
        return cache_mib
    device = torch.device(device)
    return torch.cuda.get_device_properties(device).total_memory / 2**22 if device.type == "cuda" else 2048


def choose_storage(num_values: int, cache_mib: float) -> str:
    """The first storage that holds this many values within the budget.

    >>> choose_storage(2**20, 4), choose_storage(2**20, 3), choose_storage(2**20, 1)
    ('float32', 'bfloat16', 'disk')
    """
    for storage, size in (("float32", 4), ("bfloat16", 2)):
        if num_values * size <= cache_mib * 2**20:
            return storage
    return "disk"
