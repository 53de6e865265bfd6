"""The plan of a reconstruction, unit by unit, and the settings that all objectives share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from attnround.calibration.output_metric import OutputMetric
from attnround.calibration.walk import Walk
from attnround.errors import check_number
from attnround.graph.capture import Captured
from attnround.graph.units import Unit
from attnround.quantization.observer import ClipSearch
from attnround.quantization.rounding import RoundingMethod
from attnround.reconstruction.unit import UnitWork


@dataclass(frozen=True)
class Bench:
    """What the work on a unit starts from: both models, and the calibration images on their way through them.

    graph: of both models; walk: where the images are; quantizer: as the unit's settings adapted it; num_held_out: how
    many of the last images are kept from learning; num_learned_batches: the walk's batches before them; autocast:
    forward passes in bfloat16; metrics: layer name -> the metric of its output, where the settings ask for one.
    """

    teacher: Captured
    student: Captured
    graph: fx.Graph
    walk: Walk
    quantizer: RoundingMethod
    generator: torch.Generator
    num_images: int
    num_held_out: int
    num_learned_batches: int
    autocast: bool
    metrics: Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """A unit and the settings it is reconstructed by.

    fork: None where the step moves the walk onward. A step of a first stage gives the node where the walk is forked: it
    moves a copy, and the walk itself stays there for the stage that comes after it.
    """

    settings: "Reconstruction"
    unit: Unit
    fork: fx.Node | None = None


@dataclass(frozen=True, kw_only=True)
class Reconstruction(ABC):
    """Settings of an objective.

    observer: the search for a weight's scale; batch_size: images in a forward pass; burst: steps between two readings
    of the loss; held_out: the fraction of the calibration images that is kept from learning, and on which a unit's
    result must be no worse than its start to be kept; mirrored: every image learned from is learned from mirrored too;
    mixup: and once more with another one shining through; cache_mib: memory for activations; None: what `budget_mib`
    gives.
    """

    by_moments: ClassVar[bool] = False  # whether all that is learned from images are sums over them

    observer: ClipSearch
    batch_size: int = 64
    burst: int = 100
    held_out: float = 0.125
    mirrored: bool = False
    mixup: bool = False
    cache_mib: float | None = None

    @property
    def metric(self) -> OutputMetric | None:
        """How outputs of layers are weighed, None where all count alike."""
        return None

    def __post_init__(self) -> None:
        check_number("reconstruction.held_out", self.held_out, least=0, most=0.5)
        if self.cache_mib is not None:
            check_number("reconstruction.cache_mib", self.cache_mib, least=0)
        for option in ("batch_size", "burst"):
            check_number(f"reconstruction.{option}", getattr(self, option), least=1, whole=True)

    @abstractmethod
    def plan(self, graph: fx.Graph, model: Captured, example: Tensor) -> Sequence[Step]:
        """The steps for a model; example: one image [1, C, H, W]."""

    @abstractmethod
    def adapt(self, quantizer: RoundingMethod) -> RoundingMethod:
        """The quantizer with the number of steps and the rate that this objective takes.

        Raises InputError where the method has no such objective.
        """

    @abstractmethod
    def begin(self, unit: Unit, bench: Bench) -> UnitWork:
        """Start on a unit, all units before it being final."""
