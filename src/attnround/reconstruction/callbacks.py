"""What shows a reconstruction while it runs: a bar, and the losses for loggers."""

import logging
from collections.abc import Sequence
from typing import Protocol

from attnround.progress import bar
from attnround.quantization.layers import quantized_layers
from attnround.reconstruction.loop import Callback, ReconstructionLoop

log = logging.getLogger(__name__)


class Logger(Protocol):
    """Takes metrics, as all loggers of Lightning do."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None: ...


class LossLog(Callback):
    """Gives loggers the loss of the unit after every burst; a step is a burst, counted over all units."""

    def __init__(self, loggers: Sequence[Logger]):
        self.loggers = loggers

    def on_start(self, loop: ReconstructionLoop) -> None:
        """Log the losses of units that a checkpoint has finished once more: a logger begins its file anew."""
        for i, report in enumerate(loop.reports):
            for burst, loss in enumerate(report.losses, sum(loop.num_bursts[:i])):
                self._log(report.name, loss, burst)
        self.num_bursts = sum(loop.num_bursts[: loop.index])

    def on_burst_end(self, loop: ReconstructionLoop) -> None:
        self._log(loop.step.unit.name, loop.unit.loss, self.num_bursts)
        self.num_bursts += 1

    def on_unit_end(self, loop: ReconstructionLoop) -> None:
        self.num_bursts = sum(loop.num_bursts[: loop.index + 1])  # past those of a unit that stopped early

    def _log(self, name: str, loss: float, step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics({f"reconstruction/{name}": loss}, step=step)


class ReconstructionBar(Callback):
    """Names the unit and its loss, in percent of its output's variance; plain lines where there is no terminal."""

    def on_start(self, loop: ReconstructionLoop) -> None:
        self.first = loop.index
        self.bar = bar(sum(loop.num_bursts[self.first :]), "reconstruct", "burst")
        self._say("", f"{len(loop.plan)} units", "loss: error of the unit's output, % of its variance")

    def on_unit_begin(self, loop: ReconstructionLoop) -> None:
        self.bar.set_description(f"reconstruct {_place(loop)} {_label(loop)}")

    def on_burst_end(self, loop: ReconstructionLoop) -> None:
        self.bar.set_postfix_str(f"loss {loop.unit.loss:.3g} %", refresh=False)
        self.bar.update()

    def on_unit_end(self, loop: ReconstructionLoop) -> None:
        self.bar.update(sum(loop.num_bursts[self.first : loop.index + 1]) - self.bar.n)
        self._say(_place(loop), _label(loop), f"loss {loop.unit.loss:.3g} %")

    def on_end(self, loop: ReconstructionLoop) -> None:
        self.bar.close()

    def _say(self, place: str, name: str, text: str) -> None:
        """A line where there is no bar."""
        log.log(logging.INFO if self.bar.disable else logging.DEBUG, "  %7s  %-40s %s", place, name, text)


def _place(loop: ReconstructionLoop) -> str:
    return f"{loop.index + 1}/{len(loop.plan)}"


def _label(loop: ReconstructionLoop) -> str:
    """The unit's name and the bits of its layers."""
    unit = loop.step.unit
    layers = quantized_layers(loop.student)
    bits = sorted({layers[name].grid.bit_width for name in unit.layers})
    return f"{unit.name} {'/'.join(map(str, bits))} bit"
