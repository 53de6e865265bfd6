"""Activations of all calibration images at one place of the network, within a budget of memory.

float32 where that fits; else bfloat16 where that fits; else float32 in a memory-mapped file. Inputs that a quantizer of
activations has rounded already are kept as its integer codes: a quarter of the memory, and exact.
"""

import mmap
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

APART = 2**20  # bytes of a tensor from which on it has memory of its own
# Memory that no file and no other process has; on Windows an mmap without a file is that anyway.
OWN = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
STORAGES = ("float32", "bfloat16", "disk", "codes")


class ActivationCache:
    """[N, *shape], written in slices and read by index, as float32 on `device`.

    encode, decode: of the storage "codes", float32 -> uint8 and back; factor: multiplies all that is read; last:
    whether a slice is read in channels_last, which operations may sum in another order. The file of the storage "disk"
    lies where TMPDIR says and is gone with the process, however that ends.
    """

    def __init__(
        self,
        num_images: int,
        shape: torch.Size,
        storage: str,
        device: torch.device | str = "cpu",
        encode: Callable[[Tensor], Tensor] | None = None,
        decode: Callable[[Tensor], Tensor] | None = None,
        last: bool = False,
    ):
        self.storage, self.device, self.encode, self.decode = storage, torch.device(device), encode, decode
        self.factor = 1.0
        size = (num_images, *shape[1:], shape[0]) if last else (num_images, *shape)
        if storage == "disk":
            with tempfile.TemporaryFile() as file:  # the map outlives the closed, nameless file
                self.data = torch.from_numpy(np.memmap(file, np.float32, "w+", shape=size))
        else:
            dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "codes": torch.uint8}[storage]
            self.data = torch.empty(size, dtype=dtype, device=device)
        if last:
            self.data = self.data.movedim(-1, 1)

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


class Apart:
    """A copy of a tensor in memory of its own, which the system has back when it is freed; read when asked for.

    Where what stays lies between what comes and goes, the heap is soon full of holes that nothing fits into. A tensor's
    own few bytes are enough for that, so none is kept.
    """

    def __init__(self, values: Tensor):
        dense = values.is_contiguous() or is_channels_last(values)
        self.dtype, self.shape = values.dtype, tuple(values.shape)
        self.stride = values.stride() if dense else torch.empty(values.shape, device="meta").stride()
        self.memory = mmap.mmap(-1, values.nbytes, **OWN)
        self.load().copy_(values)

    def load(self) -> Tensor:
        return torch.frombuffer(self.memory, dtype=self.dtype).as_strided(self.shape, self.stride)


def is_channels_last(values: Tensor) -> bool:
    """Whether images' values lie channels last in memory, and not in torch's own order too."""
    return values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last) and not values.is_contiguous()


def apart(values: Tensor) -> "Tensor | Apart":
    """A large tensor on a CPU in memory of its own, any other as it is."""
    return Apart(values) if values.device.type == "cpu" and values.nbytes >= APART else values


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
