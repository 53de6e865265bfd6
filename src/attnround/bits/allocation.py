"""What every allocator takes and gives, and the layers whose bits are set beforehand."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from attnround.quantization.pins import pinned_bits


class WeightedLayer(Protocol):
    """What an allocator looks at: a name and a weight [O, *rest]."""

    name: str
    weight: Tensor


@dataclass(frozen=True)
class Allocation:
    """bit_width of each layer by name, in execution order; the score it was chosen by, and that score's convention."""

    bit_width: dict[str, int]
    score: dict[str, float] = field(default_factory=dict)
    convention: str = ""

    def mean_bits(self, layers: Sequence[WeightedLayer]) -> float:
        """Mean bits of a weight, every quantized layer counted, pinned ones too."""
        total = sum(layer.weight.numel() for layer in layers)
        return sum(layer.weight.numel() * self.bit_width[layer.name] for layer in layers) / total


class Allocator(ABC):
    """Base of the allocators. `pinned` maps `first`, `last` or a name pattern to the bits such a layer gets anyway."""

    pinned: dict[str, int]

    @abstractmethod
    def allocate(self, layers: Sequence[WeightedLayer]) -> Allocation:
        """Bits for these layers, which come in execution order."""

    def pins(self, layers: Sequence[WeightedLayer]) -> dict[str, int]:
        """Layer name -> bits for the pinned layers. Raises InputError for a pattern that names no layer."""
        return pinned_bits("bits.pinned", self.pinned, [layer.name for layer in layers])
