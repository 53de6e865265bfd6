"""Images as they go through a network."""

import torch
from torch import Tensor

LARGE = 2**20  # values of the images of a forward pass on a CPU: 6 of 224 pixels


def in_batches(images: Tensor, most: int, device: torch.device | None = None) -> tuple[Tensor, ...]:
    """Images [N, C, H, W] at most `most` at a time; on a CPU fewer of large ones: as fast a pass, in less memory.

    device: where the network is, None: where the images are.

    >>> [len(batch) for batch in in_batches(torch.zeros(14, 3, 224, 224), 64)]
    [6, 6, 2]
    """
    on_cuda = (device or images.device).type == "cuda"
    return images.split(most if on_cuda else max(1, min(most, LARGE // images[0].numel())))
