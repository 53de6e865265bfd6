"""What a model gives, be it a tensor, a tuple, a dictionary or an object that holds tensors."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from attnround.errors import InputError

Output = str | int | Callable[[object], Tensor] | None


def tensors(outputs: object) -> dict[str, Tensor]:
    """The floating tensors in what a model gives for a batch, under their keys; "" is that of a tensor alone.

    >>> list(tensors({"out": torch.zeros(2, 5), "loss": torch.tensor(1.0), "aux": [torch.zeros(2, 3)]}))
    ['out', 'aux.0']
    """
    return {
        name: leaf
        for name, leaf in named_leaves(outputs)
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim
    }


def named_leaves(outputs: object) -> list[tuple[str, object]]:
    """All that what a model gives is put together of, each under its key, in its order."""
    return [(".".join(map(_key, path)), leaf) for path, leaf in pytree.tree_flatten_with_path(outputs)[0]]


def _key(entry: object) -> str:
    """A part of a path: a key of a dictionary, a place in a list, or a field's name."""
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry).strip("[].'\"")


def joined(outputs: object, num_images: int | None = None) -> Tensor:
    """What a model gives as one tensor: a lone one as it is, several side by side, [N, K] with a row an image.

    Of several, those without a row for each image (losses, tables) are left out; without num_images, those that have
    not as many rows as the first. Raises InputError where there is none.
    """
    found = list(tensors(outputs).values())
    if not found:
        raise InputError(f"the model gives no floating tensor: {type(outputs).__name__}")
    if len(found) == 1:
        return found[0]
    found = [each for each in found if len(each) == num_images] or found
    rows = [each for each in found if each.ndim > 1] or [each[:, None] for each in found]
    return torch.cat([each.flatten(1) for each in rows if len(each) == len(rows[0])], 1)


def class_logits(model: nn.Module, images: Tensor) -> Tensor:
    """The logits [N, classes, ...] of a model for a batch, found by its `logits_at`, if it has one."""
    return logits_in(model(images), getattr(model, "logits_at", None))


def logits_in(outputs: object, output: Output) -> Tensor:
    """The logits [N, classes, ...] in what a model gives for a batch.

    output: their key or index, a function that takes them out, or None where there is one tensor; a number that is no
    key is a place among the tensors. Raises InputError where it names nothing.
    """
    if callable(output):
        return output(outputs)
    found = tensors(outputs)
    if output is None and len(found) == 1:
        return next(iter(found.values()))
    if str(output) in found:
        return found[str(output)]
    if isinstance(output, int) and output < len(found):
        return list(found.values())[output]
    if list(found) == [""]:
        raise InputError(f"output={output}: the model gives a single tensor, without a name: leave output out")
    names = ", ".join(found) or "no floating tensor"
    raise InputError(f"output={output}: the model gives {names}; name the one that is the logits, or give a function")


def join(*values: object) -> Tensor:
    """`joined` of a graph's values."""
    return joined(values)
