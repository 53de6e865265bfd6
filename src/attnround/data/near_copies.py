"""Images that show the same: copies, other sizes and qualities of one photograph, frames of a video.

The threshold was chosen on 458 photographs, many of them objects on white. Of two different ones the thumbnails
correlate by at most 0.959 (a kiwi and a cymbal), the second pair by 0.926. Of one photograph and itself they do by at
least 0.994 at half the size and as a JPEG of quality 30, 0.990 with more contrast, and with 2 % cut off at two or at
all edges by 0.973 for 95 of 100.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attnround.errors import listed

SIDE = 12  # pixels of a thumbnail
DECODED = 4 * SIDE  # of a JPEG's shorter side, which is all that a thumbnail needs
ALIKE = 0.965  # correlation of two thumbnails from which on they show the same
FLOOR = 1.0  # of 255: what differs by less is no content
BLOCK = 1024


def thumbnail(image: Image.Image) -> Tensor:
    """float32 [SIDE, SIDE, 3]: the whole of an image in Pillow's mode RGB."""
    return torch.from_numpy(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32))


def groups_of(thumbnails: Tensor) -> list[int]:
    """For each of the thumbnails [N, SIDE, SIDE, 3] the place of the first image of its group.

    Two that correlate by `ALIKE` or more are of one group, and so are all that a chain of such pairs joins. The time
    grows with the square of N; 1,000 take 0.04 s and
    10,000 1.6 s.
    """
    centred = thumbnails.flatten(1) - thumbnails.flatten(1).mean(1, keepdim=True)
    floor = torch.full((len(centred), 1), FLOOR * centred.shape[1] ** 0.5)  # so that images without content are alike
    vectors = torch.nn.functional.normalize(torch.cat([centred, floor], 1))
    groups = torch.arange(len(vectors))
    for start in range(0, len(vectors), BLOCK):
        alike = vectors[start : start + BLOCK] @ vectors[: start + BLOCK].T >= ALIKE
        for place, others in enumerate(alike, start):
            joined = groups[: place + 1][others[: place + 1]].unique()
            if len(joined) > 1:
                groups[torch.isin(groups, joined)] = joined[0]
    return groups.tolist()


def in_seeded_order(groups: Sequence[int], seed: int) -> list[list[int]]:
    """The members of each group; the groups in an order that the seed draws.

    >>> in_seeded_order([0, 1, 0, 3], seed=0)
    [[3], [0, 2], [1]]
    """
    members: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    every = list(members.values())
    return [every[i] for i in torch.randperm(len(every), generator=torch.Generator().manual_seed(seed)).tolist()]


def said_of_copies(names: Sequence[str], groups: Sequence[int]) -> list[str]:
    """One line on how many images are near copies of another, with the first names; none where there are none."""
    copies = [f"{names[place]} of {names[group]}" for place, group in enumerate(groups) if place != group]
    if not copies:
        return []
    return [f"{len(copies)} of {len(names)} images are near copies of others, and stay with them: {listed(copies)}"]
