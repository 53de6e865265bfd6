"""The report of a reconstruction: on each unit, and on each layer in it."""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from attnround.graph.kinds import kind_of
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import sqnr_db
from attnround.typed import Number

LAYER = {  # a report's `asdict`, as a checkpoint holds it
    "name": str, "kind": str, "shape": [int], "num_weights": int, "bits": int, "weight_sqnr_db": Number,
    "moved_one": float, "moved_more": float,
}  # fmt: skip
UNIT = {
    "name": str, "objective": str, "start_sqnr_db": Number, "sqnr_db": Number, "kept": bool, "losses": [Number],
    "seconds": float, "layers": [LAYER],
}  # fmt: skip


@dataclass(frozen=True)
class LayerReport:
    """A layer as baked.

    moved_one, moved_more: percent of its weights that are one level, and more than one, from their nearest level.
    """

    name: str
    kind: str
    shape: list[int]
    num_weights: int
    bits: int
    weight_sqnr_db: float
    moved_one: float
    moved_more: float


@dataclass(frozen=True)
class UnitReport:
    """A unit as baked, with the SQNR of its output in dB on held-out calibration images before and after.

    The output is that for the input in the model quantized so far; the reference is the float model's output.
    objective: what the rounding was decided by. For `weights`, by a method that needs no data, SQNRs are the weight's.
    start_sqnr_db: before, rounded to nearest or by an earlier stage; kept: whether the result was no worse than that,
    and was kept; losses: the loss after each burst, in percent of the output's variance; seconds: for all of the unit.
    """

    name: str
    objective: str
    layers: list[LayerReport]
    start_sqnr_db: float
    sqnr_db: float
    kept: bool
    losses: list[float]
    seconds: float = 0.0

    def rows(self) -> list[dict[str, object]]:
        """A row for each layer, as plain values; a block's layers share what is the block's."""
        shared = {
            "unit": self.name,
            "objective": self.objective,
            "start_sqnr_db": self.start_sqnr_db,
            "output_sqnr_db": self.sqnr_db,
            "kept": self.kept,
            "seconds": self.seconds,
        }
        return [asdict(layer) | shared for layer in self.layers]

    @classmethod
    def from_plain(cls, values: dict) -> "UnitReport":
        """The report whose `asdict` these values are, which are as `UNIT` says."""
        layers = [LayerReport(**{key: layer[key] for key in LAYER}) for layer in values["layers"]]
        return cls(**{key: values[key] for key in UNIT} | {"layers": layers})


def report_layer(name: str, layer: QuantizedLayer, weight: Tensor, nearest: Tensor) -> LayerReport:
    """Compare a baked layer with its float weight and its nearest levels, all [O, *rest]."""
    moved = (layer.levels.to(nearest.dtype) - nearest).abs()
    return LayerReport(
        name=name,
        kind=kind_of(layer.layer).name,
        shape=list(weight.shape),
        num_weights=weight.numel(),
        bits=layer.grid.bit_width,
        weight_sqnr_db=sqnr_db(weight, layer.layer.weight.detach()),
        moved_one=percent(moved == 1),
        moved_more=percent(moved > 1),
    )


def percent(which: Tensor) -> float:
    """How many of a bool tensor's values are true, in percent."""
    return 100 * which.to(torch.double).mean().item()


def decibel(percent: float) -> float:
    """An error in percent of the signal as a signal-to-noise ratio in dB.

    >>> decibel(1.0)
    20.0
    """
    return -10 * math.log10(max(percent, 1e-12) / 100)
