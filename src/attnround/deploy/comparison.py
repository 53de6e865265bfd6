"""Another form of a model against the simulation that was measured, on real images."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from attnround.evaluation import is_right
from attnround.graph import Output, joined, logits_in, tensors

ALIKE = 1e-4  # of the largest logit: what float operations in another order may differ by
LEAST = 99.9  # percent of images of which both must say the same, where a code may fall to a tie's other side


@dataclass
class Comparison:
    """images; agreeing, of the same class in both, where there are pixels their share; right answers of each, None
    where there are no labels. Also the largest logit, and the largest difference of one.
    """

    images: int = 0
    agreeing: float = 0
    simulation_right: int | None = None
    right: int | None = None
    largest_logit: float = 0.0
    logit_difference: float = 0.0

    def add(self, expected: object, found: object, labels: Tensor | None, output: Output = None) -> Tensor:
        """Count a batch: what simulation and exported model give, labels [N] or [N, K]. Where classes differ: bool [N].

        labels: None where they are not known; output: which of several tensors are the logits [N, classes, ...], None
        takes all of them side by side. The largest difference is over all of them.
        """
        simulated, logits = _logits_of_both(expected, found, output)
        same = (simulated.argmax(1) == logits.argmax(1)).reshape(len(logits), -1)
        self.images += len(logits)
        self.agreeing += int(same.sum()) if logits.ndim == 2 else same.double().mean(1).sum().item()
        if labels is not None and logits.ndim == 2:  # else a label would be a picture
            self.simulation_right = (self.simulation_right or 0) + int(is_right(simulated, labels).sum())
            self.right = (self.right or 0) + int(is_right(logits, labels).sum())
        self.largest_logit = max(self.largest_logit, joined(expected).abs().max().item())
        self.logit_difference = max(self.logit_difference, _difference(joined(expected), joined(found)))
        return ~same.all(1)

    @property
    def agreement(self) -> float:
        """Percent."""
        return 100 * self.agreeing / self.images

    @property
    def top1(self) -> float | None:
        """Percent that the exported model has right; None where there are no labels."""
        return None if self.right is None else 100 * self.right / self.images

    @property
    def simulation_top1(self) -> float | None:
        """The same of the simulation."""
        return None if self.simulation_right is None else 100 * self.simulation_right / self.images

    @property
    def relative(self) -> float:
        """The largest difference in units of the largest logit."""
        return self.logit_difference / max(self.largest_logit, 1e-30)

    def fault(self, quantized_inputs: bool) -> str | None:
        """Why the exported model is not the one that was measured, if so.

        Where inputs are quantized, float rounding decides ties between two codes, each a whole step of the next layer,
        so that the logits alone are no measure.
        """
        if math.isinf(self.logit_difference):
            return "it gives NaN or infinity where the simulation does not"
        if self.agreement < LEAST:
            return f"it agrees with the simulation on {self.agreement:.2f} % of the images, {LEAST} % is asked"
        if not quantized_inputs and not self.relative <= ALIKE:
            return f"its logits differ by {self.relative:.1e} of the largest, {ALIKE:.0e} is allowed"
        return None


def _logits_of_both(expected: object, found: object, output: Output) -> tuple[Tensor, Tensor]:
    """The logits [N, classes, ...] of both, by the key that they have in what the simulation gives.

    All tensors side by side where `output` is None, or makes something new of them.
    """
    if output is not None:
        simulated, there = logits_in(expected, output), tensors(found)
        key = next((key for key, each in tensors(expected).items() if each is simulated), None)
        if key in there:
            return _by_class(simulated), _by_class(there[key])
    return _by_class(joined(expected)), _by_class(joined(found))


def _by_class(logits: Tensor) -> Tensor:
    """[N, classes, ...]; a number an image, [N], is a single class."""
    return logits[:, None] if logits.ndim == 1 else logits


def _difference(expected: Tensor, found: Tensor) -> float:
    """The largest of a value; infinite where one is NaN or infinite and the other is not the same."""
    difference = torch.where(expected == found, 0.0, (found - expected).abs()).max().item()
    return difference if math.isfinite(difference) else math.inf


@torch.no_grad()
def compare(
    simulated: Callable[[Tensor], Tensor],
    exported: list[Callable[[Tensor], Tensor]],
    batches: Iterable[tuple[Tensor, Tensor | None]],
) -> list[Comparison]:
    """Run the simulation and all exported models on images, labelled or with None; a comparison for each of these.

    Of models that give several tensors, all of them side by side are compared.
    """
    results = [Comparison() for _ in exported]
    for images, labels in batches:
        expected = simulated(images)
        for model, result in zip(exported, results, strict=True):
            result.add(expected, model(images), labels, getattr(simulated, "logits_at", None))
    return results
