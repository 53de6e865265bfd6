"""The processes that share a quantization, each with a device of its own and a part of the images.

Each takes its part of batches (`is_own`), and by `summed`, `gathered` and `from_first` all come to the same numbers. In
a process that computes alone, which is the rule, none of these does anything.
"""

import contextlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset, Subset

from attnround.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `size`; device: where what is exchanged has to be, a GPU's own for NCCL."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"


ALONE = Ranks()
_RANKS = ContextVar("ranks", default=ALONE)


@contextlib.contextmanager
def joined(ranks: Ranks) -> Iterator[None]:
    """Within, this process is one of several, whose group torch.distributed has made."""
    token = _RANKS.set(ranks)
    try:
        yield
    finally:
        _RANKS.reset(token)


def num_ranks() -> int:
    """How many processes share the work."""
    return _RANKS.get().size


def rank() -> int:
    """This process's number among them, from 0."""
    return _RANKS.get().rank


def is_own(batch: int) -> bool:
    """Whether the batch of this number is this process's: of n processes each takes every n-th, the first number 0."""
    ranks = _RANKS.get()
    return batch % ranks.size == ranks.rank


def own_items(dataset: Dataset, batch_size: int) -> Dataset:
    """The items of the batches that are this process's."""
    if num_ranks() == 1:
        return dataset
    items = range(len(dataset))  # type: ignore[arg-type]  # those that come here have a length
    return Subset(dataset, [item for item in items if is_own(item // batch_size)])


class OwnBatches(Iterable[T]):
    """The batches of a loader that are this process's; it has a length where the loader has one."""

    def __init__(self, loader: Iterable[T]):
        self.loader = loader

    def __iter__(self) -> Iterator[T]:
        return (batch for i, batch in enumerate(self.loader) if is_own(i))

    def __len__(self) -> int:
        return sum(map(is_own, range(len(self.loader))))  # type: ignore[arg-type]  # TypeError where it has no length


def all_batches(own: Sequence[T]) -> list[T]:
    """What all processes have of their batches, in the order of the batches."""
    each = gathered(list(own))
    return [part[i] for i in range(len(each[0])) for part in each if i < len(part)]


def summed(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sums over all processes of tensors by name, of which each has all, of the same shapes."""
    ranks = _RANKS.get()
    if ranks.size == 1:
        return dict(values)
    found = {}
    for name, value in values.items():
        there = value.to(ranks.device, copy=True)
        dist.all_reduce(there)
        found[name] = there.to(value.device)
    return found


def gathered(value: T) -> list[T]:
    """What each process has here, in their order."""
    found: list[Any] = [value]
    if num_ranks() > 1:
        found = [None] * num_ranks()
        dist.all_gather_object(found, value)
    return found


def from_first(value: T) -> T:
    """What the first process has here."""
    found = [value]
    if num_ranks() > 1:
        dist.broadcast_object_list(found, 0)
    return found[0]


def checksum(*tensors: Tensor) -> int:
    """The CRC-32 of tensors' values, one behind the other."""
    found = 0
    for tensor in tensors:
        found = zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def check_same(images: Tensor) -> None:
    """Raise InputError where the processes have been given different images [N, C, H, W]."""
    if num_ranks() > 1:
        digests = gathered(checksum(images))
        others = [str(rank + 1) for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise InputError(f"process {', '.join(others)} has other images than the first: give all the same")
