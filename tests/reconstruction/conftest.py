"""A network of two residual blocks, and its reconstruction from a start that stays as it is."""

import copy
import functools
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from attnround.calibration import attach_activations, calibrate_activations
from attnround.graph import Captured, capture, find_layers, swap_layers
from attnround.quantization.observer import ClipSearch, sqnr_db
from attnround.quantization.ranges import Float, RangeSearch
from attnround.reconstruction import ReconstructionLoop, reconstruct


class Shortcut(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return (x + self.second(self.first(x).relu())).relu()


class TwoBlocks(nn.Module):
    def __init__(self, width: int = 8, num_classes: int = 5):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.one, self.two = Shortcut(width), Shortcut(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        x = self.two(self.one(self.stem(x).relu()))
        return self.head(x.mean((2, 3)))


@dataclass
class Problem:
    """A float model, the same with its weights at nearest, and calibration images."""

    teacher: nn.Module
    student: nn.Module
    images: torch.Tensor

    def run(self, quantizer, settings, **more):
        """A reconstructed copy of the student, and the reports."""
        student = copy.deepcopy(self.student)
        return student, reconstruct(self.teacher, student, self.images, quantizer, settings, **more)

    def begin(self, quantizer, settings, index=0, seed=0):
        """The work on a unit of the plan, with all before it at nearest, and the loop around it."""
        student = copy.deepcopy(self.student)
        loop = ReconstructionLoop(self.teacher, student, self.images, quantizer, settings, seed=seed)
        loop.index = index
        with loop.on("cpu"):
            loop.begin_unit()
        return loop.unit, loop

    @torch.no_grad()
    def fidelity(self, student) -> float:
        x = torch.randn(200, 3, 12, 12, generator=torch.Generator().manual_seed(1))
        return sqnr_db(self.teacher(x), student(x))


def make_problem(teacher: nn.Module, search: RangeSearch | None = None, num_images: int = 48, bits: int = 3) -> Problem:
    """search: for the ranges of activations, which stay float without one."""
    images = torch.randn(num_images, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    teacher = teacher if isinstance(teacher, Captured) else capture(teacher, images[:1])
    student = swap_layers(teacher, dict.fromkeys(find_layers(teacher), bits), ClipSearch())
    attach_activations(student, calibrate_activations(teacher, images, search or Float(), 16))
    return Problem(teacher, student, images)


@pytest.fixture
def two_blocks() -> nn.Module:
    model = copy.deepcopy(_two_blocks())
    torch.manual_seed(0)  # for what a test draws, whether the network was captured for this test or before
    return model


@functools.cache
def _two_blocks() -> nn.Module:
    torch.manual_seed(0)
    return capture(TwoBlocks(), torch.zeros(1, 3, 12, 12))


@pytest.fixture
def blocks(two_blocks) -> Problem:
    return make_problem(two_blocks)


@pytest.fixture
def with_activations(two_blocks):
    """The same with the inputs quantized by this search."""
    return lambda search: make_problem(two_blocks, search)


@pytest.fixture
def problem_of():
    return make_problem
