"""How closely a quantized model follows its float original, without labels."""

import torch
from torch import Tensor, nn

from attnround.quantization.observer import sqnr_db


@torch.no_grad()
def logits(model: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """Of images [N, C, H, W] that are at hand, where the model is: [N, classes] on the CPU."""
    device = next(model.parameters()).device
    return torch.cat([model(batch.to(device)).float().cpu() for batch in images.split(batch_size)])


def agreement(reference: Tensor, logits: Tensor) -> float:
    """Percent of images for which both logits [N, classes] have the same largest class."""
    return 100 * (reference.argmax(1) == logits.argmax(1)).double().mean().item()


def logit_sqnr_db(reference: Tensor, logits: Tensor) -> float:
    """Signal to quantization noise of the logits in dB, over all images."""
    return sqnr_db(reference, logits)
