"""Bit allocation: how many bits each layer's weight gets."""

from attnround.bits.allocation import Allocation, Allocator
from attnround.bits.coding_length import weight_rate
from attnround.bits.mixed import Mixed
from attnround.bits.uniform import Uniform

__all__ = ["Allocation", "Allocator", "Mixed", "Uniform", "weight_rate"]
