"""Logits over an evaluation set, and the top-1 accuracy they give where there are labels."""

from dataclasses import dataclass

from torch import Tensor


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """bool [N]: whether the largest of logits [N, classes] is the label [N], or one of several [N, K], filled with -1.

    >>> import torch
    >>> is_right(torch.eye(3), torch.tensor([[0, 1], [2, 0], [1, 2]])).tolist()
    [True, False, True]
    """
    return (logits.argmax(1, keepdim=True) == labels.view(len(logits), -1)).any(1)


@dataclass(frozen=True)
class Outputs:
    """logits [N, classes] and labels [N] or [N, K] of an evaluation set, on the CPU, in the loader's order.

    labels: None where they are not known, and then neither is `correct` nor `top1`.
    """

    logits: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def correct(self) -> Tensor | None:
        """bool [N]: whether an image's largest logit is of a class that is right for it."""
        return None if self.labels is None else is_right(self.logits, self.labels)

    @property
    def top1(self) -> float | None:
        """Percent of images that are classified right."""
        return None if self.correct is None else 100 * self.correct.double().mean().item()
