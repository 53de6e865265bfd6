"""Another form of a model against the simulation that was measured, on real images."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnround.evaluation import is_right
from attnround.graph import Output, joined, logits_in, tensors

Batches = Iterable[tuple[Tensor, Tensor | None]]  # of images, with labels where these are known

ALIKE = 1e-4  # of the largest logit: what float operations in another order may differ by
LEAST = 99.9  # percent of images of which both must say the same, where a code may fall to a tie's other side
LEAST_DB = 20.0  # of every output that is not judged by its classes; ties in deep networks leave 30, faults 3 to 13
NEAR = 2.0  # times as far as ties alone take the simulation from itself, and times as many images of another class


@dataclass
class Comparison:
    """images; agreeing, of the same class in both, where there are pixels their share; right answers of each, None
    where there are no labels. Also the largest logit, and the largest difference of one. energies: output -> sums of
    squares of the simulation's and of what the other differs by; by_class: the output whose classes agree, None where
    that has a single one, or all outputs are taken side by side.
    """

    images: int = 0
    agreeing: float = 0
    simulation_right: int | None = None
    right: int | None = None
    largest_logit: float = 0.0
    logit_difference: float = 0.0
    energies: dict[str, tuple[float, float]] = field(default_factory=dict)
    by_class: str | None = None

    def add(
        self,
        expected: object,
        found: object,
        labels: Tensor | None,
        output: Output = None,
        num_images: int | None = None,
    ) -> Tensor:
        """Count a batch: what simulation and exported model give, labels [N] or [N, K]. Where classes differ: bool [N].

        labels: None where they are not known; output: which of several tensors are the logits [N, classes, ...], None
        takes all of them side by side, as `joined` does. The largest difference is over all of them.
        """
        side_by_side = joined(expected, num_images), joined(found, num_images)
        simulated, logits, key = _logits_of_both(expected, found, output, side_by_side)
        self.by_class = key if simulated.shape[1] > 1 else None
        for name, one, other in _pairs(expected, found):
            signal, noise = self.energies.get(name, (0.0, 0.0))
            self.energies[name] = signal + _finite(one).double().square().sum().item(), noise + _squared(one, other)
        same = (simulated.argmax(1) == logits.argmax(1)).reshape(len(logits), -1)
        self.images += len(logits)
        self.agreeing += int(same.sum()) if logits.ndim == 2 else same.double().mean(1).sum().item()
        if labels is not None and logits.ndim == 2:  # else a label would be a picture
            self.simulation_right = (self.simulation_right or 0) + int(is_right(simulated, labels).sum())
            self.right = (self.right or 0) + int(is_right(logits, labels).sum())
        self.largest_logit = max(self.largest_logit, _finite(side_by_side[0]).abs().max().item())
        self.logit_difference = max(self.logit_difference, _difference(*side_by_side))
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

    @property
    def sqnr_db(self) -> float:
        """Of all outputs together; infinite where they are the same to the bit."""
        signal, noise = (sum(each) for each in zip(*self.energies.values(), strict=True))
        return _decibels(signal, noise)

    def fault(self, quantized_inputs: bool, by_class: bool = True, ties: Sequence["Comparison"] = ()) -> str | None:
        """Why the exported model is not the one that was measured, if so.

        Where inputs are quantized, float rounding decides ties between two codes, each a whole step of the next layer,
        so that logits are judged by their classes. by_class: False asks `LEAST_DB` of them too, as of others. ties: the
        simulation beside itself, its floats rounded otherwise, as often as there are: what that explains is no fault.
        """
        if math.isinf(self.logit_difference):
            return "it gives NaN or infinity where the simulation does not"
        for name, (_, noise) in self.energies.items():
            if math.isinf(noise):
                return f"it has no output {name} of the simulation's shape"
        if self.agreement < LEAST and not self._classes_are_tied(ties):
            return f"it agrees with the simulation on {self.agreement:.2f} % of the images, {LEAST} % is asked"
        for name, (signal, noise) in self.energies.items():
            judged = not (by_class and name == self.by_class) and not self._is_near(ties, [name])
            if judged and not noise <= signal * 10 ** (-LEAST_DB / 10):
                what, db = f"its output {name}" if name else "its output", _decibels(signal, noise)
                return f"{what} follows the simulation's by {db:.1f} dB, {LEAST_DB:g} dB are asked"
        if not quantized_inputs and not self.relative <= ALIKE:
            return f"its logits differ by {self.relative:.1e} of the largest, {ALIKE:.0e} is allowed"
        return None

    @property
    def is_finite(self) -> bool:
        """Whether there is a number for every one of the simulation's, of every output."""
        return all(map(math.isfinite, (self.logit_difference, *(noise for _, noise in self.energies.values()))))

    @property
    def lost(self) -> float:
        """How many images have another class."""
        return self.images - self.agreeing

    def _classes_are_tied(self, ties: Sequence["Comparison"]) -> bool:
        most = max((each.lost for each in ties), default=-1.0)
        names = list(self.energies) if self.by_class is None else [self.by_class]
        return self.lost <= NEAR * (1 + most) and self._is_near(ties, names)

    def _is_near(self, ties: Sequence["Comparison"], names: Iterable[str]) -> bool:
        """Whether these outputs together are no further off than `NEAR` times what ties make of them at most."""
        off, *by_ties = (sum(each.energies[name][1] for name in names) for each in (self, *ties))
        return off <= NEAR**2 * max(by_ties, default=-1.0)


def _pairs(expected: object, found: object) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """The outputs of the simulation by their names, each with the other model's; a lone one has its own, or none."""
    simulated, there = tensors(expected), tensors(found)
    if len(simulated) == len(there) == 1:
        there = dict(zip(simulated, there.values(), strict=True))
    for name, each in simulated.items():
        yield name, each, there.get(name)


def _decibels(signal: float, noise: float) -> float:
    """Signal over noise; -inf without a signal, or where the noise is not finite."""
    if not signal or not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(signal / noise) if noise else math.inf


def _squared(expected: Tensor, found: Tensor | None) -> float:
    """The energy of the difference; infinite where there is nothing to compare with."""
    if found is None or found.shape != expected.shape:
        return math.inf
    return torch.where(_alike(expected, found), 0.0, (found - expected).double().square()).sum().item()


def _finite(values: Tensor) -> Tensor:
    """Zeros for what is not."""
    return torch.where(values.isfinite(), values, 0.0)


def _alike(expected: Tensor, found: Tensor) -> Tensor:
    """bool: of the same value, be it NaN."""
    return (expected == found) | (expected.isnan() & found.isnan())


def _logits_of_both(
    expected: object, found: object, output: Output, side_by_side: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, str | None]:
    """The logits [N, classes, ...] of both, by the key that they have in what the simulation gives, and that key.

    All tensors side by side, and no key, where `output` is None and they are several, or makes something new of them.
    """
    if output is not None:
        simulated, there = logits_in(expected, output), tensors(found)
        key = next((key for key, each in tensors(expected).items() if each is simulated), None)
        if key in there:
            return _by_class(simulated), _by_class(there[key]), key
    alone = list(tensors(expected))
    simulated, logits = map(_by_class, side_by_side)
    return simulated, logits, alone[0] if len(alone) == 1 else None


def _by_class(logits: Tensor) -> Tensor:
    """[N, classes, ...]; a number an image, [N], is a single class."""
    return logits[:, None] if logits.ndim == 1 else logits


def _difference(expected: Tensor, found: Tensor) -> float:
    """The largest of a value; infinite where one is NaN or infinite and the other is not the same."""
    difference = torch.where(_alike(expected, found), 0.0, (found - expected).abs()).max().item()
    return difference if math.isfinite(difference) else math.inf


@torch.no_grad()
def compare(
    simulated: Callable[[Tensor], Tensor],
    exported: Sequence[Callable[[Tensor], Tensor]],
    batches: Batches,
) -> list[Comparison]:
    """Run the simulation and all exported models on images, labelled or with None; a comparison for each of these.

    Of models that give several tensors, all of them side by side are compared.
    """
    results = [Comparison() for _ in exported]
    for images, labels in batches:
        expected = simulated(images)
        for model, result in zip(exported, results, strict=True):
            result.add(expected, model(images), labels, getattr(simulated, "logits_at", None), len(images))
    return results


@torch.no_grad()
def compare_of_pixels(
    simulated: Callable[[Tensor], Tensor],
    exported: Callable[[Tensor], object],
    images: Iterable[tuple[Tensor, Tensor]],
) -> Comparison:
    """The same of an exported model that takes pixels; images: each as the simulation takes it, and its pixels."""
    result = Comparison()
    for image, pixels in images:
        result.add(simulated(image), exported(pixels), None, getattr(simulated, "logits_at", None), len(image))
    return result
