"""How closely a quantized model follows its float original, without labels."""

from torch import Tensor

from attnround.quantization.observer import sqnr_db


def agreement(reference: Tensor, logits: Tensor) -> float:
    """Percent of images for which both logits [N, classes] have the same largest class."""
    return 100 * (reference.argmax(1) == logits.argmax(1)).double().mean().item()


def logit_sqnr_db(reference: Tensor, logits: Tensor) -> float:
    """Signal to quantization noise of the logits in dB, over all images."""
    return sqnr_db(reference, logits)
