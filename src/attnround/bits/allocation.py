"""What an allocator is asked, and what it answers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from torch import Tensor

from attnround.errors import InputError
from attnround.quantization.observer import ClipSearch
from attnround.quantization.pins import Pins, pinned_bits

FLOAT_BITS = 32
T = TypeVar("T")


@dataclass(frozen=True)
class Layer:
    """A layer to be quantized, and what a bit of it costs.

    name: in the model; weight: [O, *rest], batch norm folded in; unfolded: the same before that, where it differs;
    macs: multiply-accumulates for an image; input_bits: of its inputs.
    """

    name: str
    weight: Tensor
    unfolded: Tensor | None = None
    macs: int = 0
    input_bits: int = FLOAT_BITS


@dataclass(frozen=True)
class Allocation:
    """bit_width of each layer by name, in execution order; the score it was chosen by, and that score's convention.

    score is higher where a layer wants more bits; budget: what was asked and what is spent, in words; trials: the
    budgets that were tried and the agreement in percent that each gave, in their order; predicted_sqnr_db: of the
    logits, signal to noise in dB where an allocator foretells it.
    """

    bit_width: dict[str, int]
    score: dict[str, float] = field(default_factory=dict)
    convention: str = ""
    budget: str = ""
    trials: list[dict[str, float]] = field(default_factory=list)
    predicted_sqnr_db: float | None = None

    def mean_bits(self, layers: Sequence[Layer]) -> float:
        """Mean bits of a weight, every quantized layer counted, pinned ones too."""
        total = sum(layer.weight.numel() for layer in layers)
        return sum(layer.weight.numel() * self.bit_width[layer.name] for layer in layers) / total


def _without_images(*_: object) -> NoReturn:
    raise InputError("this problem holds weights alone, and the allocator measures on images: give another allocator")


@dataclass(frozen=True)
class Problem:
    """The layers of a model in execution order, and what else an allocator may ask; what costs time is a function.

    observer: the search for a weight's scale; other_bits: what the model stores besides its quantized layers;
    sums: names of the layers that feed one residual sum; answers: what was asked before of this problem;
    second_moments: layer name -> covariance of its inputs in the float model [G, n, n], G groups of n inputs;
    shrunk_moments: the same without what is sampling error in their correlations;
    output_metrics: kind (`logits` or `fisher`, see calibration/output_metric.py) -> layer name -> metric of its outputs
    [G, o, o], a mean over images and a sum over the places of the output: how much an image's output moves by errors
    that are independent from place to place;
    joint_moments: kind -> layer name -> the covariance of its inputs over one half of the images, and over the other
    the second moment of its inputs as it counts in the network's output, where the effects at all places of an image
    come together (calibration/sensitivity.py), summed over its outputs; both [G, n, n];
    logit_energy: squared logits of the float model, summed over classes, a mean over images;
    fisher_traces: layer name -> trace of the Fisher information of its weight, from a number of probes;
    logit_noise: of the float model with this weight for this layer's, mean square, relative to the logits' variance.
    """

    layers: Sequence[Layer]
    observer: ClipSearch = field(default_factory=ClipSearch)
    other_bits: int = 0
    sums: Callable[[], Sequence[Sequence[str]]] = tuple
    answers: dict[object, Any] = field(default_factory=dict)
    second_moments: Callable[[], dict[str, Tensor]] = _without_images
    shrunk_moments: Callable[[], dict[str, Tensor]] = _without_images
    output_metrics: Callable[[str], dict[str, Tensor]] = _without_images
    joint_moments: Callable[[str], dict[str, tuple[Tensor, Tensor]]] = _without_images
    logit_energy: Callable[[], float] = _without_images
    fisher_traces: Callable[[int], dict[str, float]] = _without_images
    logit_noise: Callable[[str, Tensor], float] = _without_images

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> "Problem":
        """Of layers by name -> float weight [O, *rest]. Allocators that ask for anything else raise InputError."""
        return cls([Layer(name, weight) for name, weight in weights.items()])

    def remembered(self, what: object, compute: Callable[[], T]) -> T:
        """What `compute` gives, once a problem: who tries several budgets asks again."""
        if what not in self.answers:
            self.answers[what] = compute()
        return self.answers[what]


class Allocator(ABC):
    """Base of the allocators. `pinned` maps `first`, `last` or a name pattern to the bits such a layer gets anyway."""

    pinned: Pins

    @abstractmethod
    def allocate(self, problem: Problem) -> Allocation:
        """Bits for the problem's layers."""

    def pins(self, layers: Sequence[Layer]) -> dict[str, int]:
        """Layer name -> bits for the pinned layers. Raises InputError for a pattern that names no layer."""
        return pinned_bits("bits.pinned", self.pinned, [layer.name for layer in layers])
