"""What every allocator takes and gives, and the layers whose bits are set beforehand."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol

from torch import Tensor

from attnround.errors import InputError
from attnround.quantization.grid import BIT_WIDTHS


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
        names = [layer.name for layer in layers]
        pins = {}
        for pattern, bit_width in self.pinned.items():
            check_bit_width("bits.pinned", bit_width)
            places = {"first": names[:1], "last": names[-1:]}
            matches = places.get(pattern, [name for name in names if fnmatchcase(name, pattern)])
            if not matches:
                raise InputError(f"bits.pinned: no layer is called {pattern}; the layers are {', '.join(names)}")
            pins.update(dict.fromkeys(matches, bit_width))
        return pins


def check_bit_width(option: str, bit_width: object) -> None:
    """Raise InputError unless this is a whole number that the grid offers."""
    if isinstance(bit_width, bool) or not isinstance(bit_width, int) or bit_width not in BIT_WIDTHS:
        raise InputError(f"{option}={bit_width}: a bit width is a whole number from 2 to 8")
