"""How closely a quantized model follows its float original, without labels."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attnround.graph import class_logits
from attnround.graph import tensors as tensors_of
from attnround.quantization.observer import sqnr_db

BATCH_SIZE = 64


@torch.no_grad()
def logits(model: nn.Module, images: Tensor, batch_size: int = BATCH_SIZE) -> Tensor:
    """The class logits [N, classes] of images [N, C, H, W] that are at hand, computed where the model is, on the CPU.

    Raises InputError where the model gives several tensors and does not say which are the logits.
    """
    return torch.cat([class_logits(model, batch).float().cpu() for batch in _batches(model, images, batch_size)])


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor, batch_size: int = BATCH_SIZE) -> dict[str, Tensor]:
    """All floating tensors that a model gives for the images, by their keys, on the CPU."""
    found = [tensors_of(model(batch)) for batch in _batches(model, images, batch_size)]
    return {key: torch.cat([batch[key].float().cpu() for batch in found]) for key in found[0]}


def _batches(model: nn.Module, images: Tensor, batch_size: int) -> Iterator[Tensor]:
    device = next(model.parameters()).device
    return (batch.to(device) for batch in images.split(batch_size))


def agreement(reference: Tensor, logits: Tensor) -> float:
    """Percent of images, or of pixels, for which both logits [N, classes, ...] have the same largest class."""
    return 100 * (reference.argmax(1) == logits.argmax(1)).double().mean().item()


def logit_sqnr_db(reference: Tensor, logits: Tensor) -> float:
    """Signal to quantization noise of the logits in dB, over all images."""
    return sqnr_db(reference, logits)
