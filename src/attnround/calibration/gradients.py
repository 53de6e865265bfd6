"""Which parameters of a model have gradients while something is measured."""

import contextlib
from collections.abc import Iterable, Iterator

from torch import Tensor, nn


@contextlib.contextmanager
def gradients_of(model: nn.Module, parameters: Iterable[Tensor] = ()) -> Iterator[None]:
    """Within, these parameters of a model have gradients and no others; afterwards each is as it was."""
    chosen = {id(each) for each in parameters}
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for parameter in before:
        parameter.requires_grad_(id(parameter) in chosen)
    try:
        yield
    finally:
        for parameter, wanted in before.items():
            parameter.requires_grad_(wanted)
