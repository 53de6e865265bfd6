"""The same bits for every layer but the pinned ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from attnround.bits.allocation import Allocation, Allocator, WeightedLayer
from attnround.quantization.pins import check_bit_width


@dataclass(frozen=True)
class Uniform(Allocator):
    """bit_width everywhere; pinned: `first`, `last` or a name pattern -> its bits."""

    bit_width: int = 4
    pinned: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_bit_width("bits.bit_width", self.bit_width)

    def allocate(self, layers: Sequence[WeightedLayer]) -> Allocation:
        pins = self.pins(layers)
        return Allocation({layer.name: pins.get(layer.name, self.bit_width) for layer in layers})
