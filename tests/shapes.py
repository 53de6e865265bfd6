"""Puts checks of tensor shapes and element types into attnround.quantization, for the modules imported after this one.

Within a call, an axis of one name has one size: a scale " O" fits a weight " O *rest". The checks are on in
tests/quantization. Elsewhere JAXTYPING_DISABLE=0 in the environment puts them on: a call then takes some tens of
microseconds more, which would make the tests of reconstruction some 40 % slower.
"""

import importlib.util
import os
from collections.abc import Callable


def checked(function: Callable) -> Callable:
    """This function with checks of what is annotated as a tensor, and of nothing else."""
    from beartype import BeartypeConf, beartype

    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if "Tensor" in repr(hint)}
    return beartype(function, conf=BeartypeConf(is_pep484_tower=True))  # an int is a float too


if all(map(importlib.util.find_spec, ("jaxtyping", "beartype"))):  # a machine that is lent for its GPU may lack them
    from jaxtyping import config, install_import_hook

    install_import_hook("attnround.quantization", "tests.shapes.checked")
    config.update("jaxtyping_disable", os.environ.get("JAXTYPING_DISABLE", "1"))
