"""A quantization under way: the parts that its config names, and what its stages have found so far."""

from dataclasses import dataclass, field

from pytorch_lightning.loggers import Logger
from torch import nn

from attnround.bits import Allocator, Auto
from attnround.data import Calibration, HeldOut, ImageData
from attnround.evaluation import Outputs
from attnround.experiment.record import Run
from attnround.graph import Equalization
from attnround.prepared import NO_EQUALIZATION, Prepared, Start
from attnround.qat import Lsq, NoTraining, Tuned
from attnround.quantization.ranges import RangeSearch
from attnround.quantization.rounding import RoundingMethod
from attnround.reconstruction import Reconstruction, UnitReport
from attnround.trainer import TrainerSettings
from attnround.zoo import Blueprint


@dataclass(kw_only=True)
class Job:
    """What comes in stands first; each of the others is set by the stage that finds it."""

    model: Blueprint
    data: ImageData
    quantizer: RoundingMethod
    bits: Allocator | Auto
    activation: RangeSearch
    reconstruction: Reconstruction
    qat: Lsq | NoTraining
    trainer: TrainerSettings
    loggers: list[Logger]
    run: Run
    equalization: Equalization = NO_EQUALIZATION

    prepared: Prepared = field(init=False)
    calibration: Calibration = field(init=False)
    material: str = field(init=False)  # a digest of the float weights and the calibration images
    labelled: HeldOut | None = field(init=False, default=None)  # None: nothing is trained with labels
    start: Start = field(init=False)
    student: nn.Module = field(init=False)
    untrained: nn.Module = field(init=False)  # what training with labels begins from
    reference: Outputs = field(init=False)  # of the float model, on the evaluation images
    nearest: Outputs = field(init=False)
    quantized: Outputs = field(init=False)
    reports: list[UnitReport] = field(init=False)
    rows: list[dict] = field(init=False)  # one a layer
    tuned: Tuned = field(init=False)

    @property
    def going_on(self) -> str:
        """The identity of what is left to go on from: of the run, and of what it found where its options point."""
        return f"{self.run.going_on}+{self.material}"

    @property
    def method(self) -> str:
        """The rounding method, as tables call it."""
        return self.run.choices["quantizer"]
