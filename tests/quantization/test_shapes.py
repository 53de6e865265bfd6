"""The annotated shapes hold in these tests, and cost nothing outside the tests."""

import subprocess
import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.grid import Grid, dequantize, quantize
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.rounding import Decided, Nearest

WEIGHT = torch.zeros(4, 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: quantize(WEIGHT, torch.ones(3), torch.zeros(3), Grid(4)),  # a scale an input instead of one an output
        lambda: quantize(WEIGHT, torch.ones(4, 1), torch.zeros(4), Grid(4)),
        lambda: dequantize(WEIGHT.int(), torch.ones(4, dtype=torch.int32), torch.zeros(4)),
        lambda: QuantizedLayer(torch.nn.Linear(3, 4), Grid(4), torch.ones(()), torch.zeros(4)),
        lambda: ActivationQuantizer(1.0, 0, 8).decode(WEIGHT),  # floats, where codes are bytes
        lambda: Nearest().start(WEIGHT, Grid(4), None, torch.Generator(), torch.zeros(3, 1)),
    ],
)
def test_a_wrong_shape_or_element_type_is_seen(call):
    with pytest.raises(TypeCheckError):
        call()


def test_a_wrong_shape_of_a_result_is_seen():
    rounding = Decided(WEIGHT)
    rounding.levels = torch.zeros(())
    with pytest.raises(TypeCheckError, match="return value"):
        rounding.decide()


PLAIN = """
import importlib, pkgutil, sys
{first}
import attnround.quantization as room
modules = [importlib.import_module(each.name) for each in pkgutil.walk_packages(room.__path__, room.__name__ + ".")]
assert room.grid in modules and len(modules) > 10
assert room.grid.quantize.__code__.co_filename == room.grid.__file__  # itself, not a wrapper
from torch import ones, zeros
assert room.grid.quantize(ones(1, 3), ones(3), zeros(3), room.grid.Grid(4)).shape == (3, 3)  # a wrong scale
"""


@pytest.mark.parametrize("first", ["import jaxtyping", "sys.modules['jaxtyping'] = None"], ids=["with", "without"])
def test_outside_the_tests_nothing_is_checked_and_jaxtyping_need_not_be_there(first):
    subprocess.run([sys.executable, "-c", PLAIN.format(first=first)], check=True)
