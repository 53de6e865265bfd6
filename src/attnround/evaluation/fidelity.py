"""How closely a quantized model follows its float original, without labels."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attnround.graph import class_logits, in_batches
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
    device = next(model.parameters(), images).device
    return (batch.to(device) for batch in in_batches(images, batch_size, device))


def agreement(reference: Tensor, logits: Tensor) -> float:
    """Percent of images, or of pixels, for which both logits [N, classes, ...] have the same largest class."""
    return 100 * (reference.argmax(1) == logits.argmax(1)).double().mean().item()


def logit_sqnr_db(reference: Tensor, logits: Tensor) -> float:
    """Signal to quantization noise of the logits in dB, over all images; without what is infinite in both alike."""
    masked = reference.isinf() & (reference == logits)
    return sqnr_db(reference.masked_fill(masked, 0), logits.masked_fill(masked, 0))


def kl_nats(reference: Tensor, logits: Tensor) -> float:
    """KL(p || q) in nats, p and q the softmax of reference and logits [N, classes, ...], the mean over images."""
    log_p, log_q = (each.double().log_softmax(1) for each in (reference, logits))
    terms = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q))  # a class that is masked has none
    return terms.sum(1).mean().item()


def confidence_change(reference: Tensor, logits: Tensor) -> float:
    """By how many points the probability of the reference's top class changes, the mean over images.

    Below 0 the model is less sure than its reference of what that says. Of logits [N, classes, ...].
    """
    top = reference.argmax(1, keepdim=True)
    before, after = (each.double().softmax(1).gather(1, top) for each in (reference, logits))
    return 100 * (after - before).mean().item()


def fidelity(reference: Tensor, logits: Tensor) -> dict[str, float]:
    """All measures of how closely logits [N, classes, ...] follow a reference, by the names that records have."""
    return {
        "agreement": agreement(reference, logits),
        "sqnr_db": logit_sqnr_db(reference, logits),
        "kl": kl_nats(reference, logits),
        "confidence_change": confidence_change(reference, logits),
    }
