"""Bit allocation: how many bits each layer's weight gets."""

from attnround.bits.allocation import Allocation, Allocator, Layer, Problem
from attnround.bits.auto import Auto
from attnround.bits.coding_length import Convention, weight_rate
from attnround.bits.file import File, allocation_json
from attnround.bits.mixed import Mixed
from attnround.bits.random import Random
from attnround.bits.rate_distortion import RateDistortion
from attnround.bits.sensitivity import Fisher, Sensitivity
from attnround.bits.uniform import Uniform

__all__ = [
    "Allocation",
    "Allocator",
    "Auto",
    "Convention",
    "File",
    "Fisher",
    "Layer",
    "Mixed",
    "Problem",
    "Random",
    "RateDistortion",
    "Sensitivity",
    "Uniform",
    "allocation_json",
    "weight_rate",
]
