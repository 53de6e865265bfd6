"""This project, at its defaults."""

from collections.abc import Callable

from cell import Case
from torch import nn

from attnround import quantize
from attnround.api import ENDS
from attnround.bits import Uniform
from attnround.quantization.ranges import Mse

PACKAGE = "attnround"


def by(rounding: str) -> Callable[[Case, int, int | None], nn.Module]:
    """A method of this name."""

    def quantized(case: Case, weights: int, inputs: int | None) -> nn.Module:
        found = quantize(
            case.module, case.images, bits=Uniform(bit_width=weights, pinned=ENDS), rounding=rounding,
            activation=None if inputs is None else Mse(inputs, pinned=ENDS), seed=case.seed, progress=False,
        )  # fmt: skip
        return found.model

    return quantized


METHODS = {name: by(name) for name in ("nearest", "gptq", "attention_round", "adaround")}
