"""A unit that is being reconstructed: what the layer and the block objective have in common."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from attnround.errors import InputError
from attnround.quantization.grid import quantize
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.rounding import RoundingMethod
from attnround.reconstruction.report import UnitReport, decibel, report_layer


class UnitWork(ABC):
    """Learns by `run`; `finish` decides, bakes and reports. Errors and losses are in percent of the output's variance.

    kind: what reports call the objective; layers, weights: by name, the quantized layers and their float weights
    [O, *rest]. Subclasses also set `optimizer`, None where nothing is learned by steps; `loss`, the latest; and
    `start_error`, the held-out error of the layers as the unit finds them.
    """

    optimizer: torch.optim.Optimizer | None
    loss: float
    start_error: float
    stopped: bool = False  # early: what is left of the steps is not to be taken

    def __init__(
        self,
        name: str,
        kind: str,
        layers: dict[str, QuantizedLayer],
        weights: dict[str, Tensor],
        quantizer: RoundingMethod,
    ):
        self.name, self.kind, self.layers, self.weights, self.quantizer = name, kind, layers, weights, quantizer
        self.losses: list[float] = []

    @torch.enable_grad()
    def run(self, steps: range) -> None:
        """Take these of the quantizer's steps. Raises InputError that names the unit where the loss is not finite."""
        if self.optimizer is None:
            return
        if not self.quantizer.num_steps:
            kind = type(self.quantizer).__name__
            raise InputError(f"{kind} has parameters to learn and num_steps=0: give it the number of its steps")
        self.loss = self._descend(steps)
        self.losses.append(self.loss)
        if not math.isfinite(self.loss):
            raise InputError(
                f"{self.name}: the loss became {self.loss} at a learning rate of {self.quantizer.lr}; "
                "lower quantizer.lr"
            )

    @torch.no_grad()
    def finish(self) -> UnitReport:
        """Bake what the roundings decide, or the start again if that has the smaller error on held-out images."""
        self._bake_decision()
        error = self._held_out_error()
        kept = error <= self.start_error
        if not kept:
            self._bake_start()
        return UnitReport(
            name=self.name,
            objective=self.kind,
            layers=[
                report_layer(key, layer, self.weights[key], self._nearest(key)) for key, layer in self.layers.items()
            ],
            start_sqnr_db=decibel(self.start_error),
            sqnr_db=decibel(error if kept else self.start_error),
            kept=kept,
            losses=self.losses,
        )

    def _nearest(self, key: str) -> Tensor:
        """The levels nearest to a layer's float weight, which its report counts moves from."""
        layer = self.layers[key]
        return quantize(self.weights[key], layer.scale, layer.zero_point, layer.grid)

    @abstractmethod
    def _descend(self, steps: range) -> float:
        """Take these steps; return the last one's loss."""

    @abstractmethod
    def _bake_decision(self) -> None: ...

    @abstractmethod
    def _bake_start(self) -> None: ...

    @abstractmethod
    def _held_out_error(self) -> float:
        """The error of the layers as they are, on the images kept from learning (on all, where none are)."""
