"""Progress bars. Where the output is not a terminal there is no bar, only what the stages print."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar

import pytorch_lightning as pl
from tqdm.auto import tqdm

log = logging.getLogger(__name__)


_SILENT = ContextVar("silent", default=False)


@contextlib.contextmanager
def silent(quiet: bool = True) -> Iterator[None]:
    """Within, no bar is shown."""
    token = _SILENT.set(quiet)
    try:
        yield
    finally:
        _SILENT.reset(token)


def bar(total: int, description: str, unit: str, shown: bool = True) -> tqdm:
    """A bar that goes when it is done, on standard error or in a notebook; silent where that is neither."""
    seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    hidden = _SILENT.get() or not (shown and seen)
    return tqdm(total=total, desc=description, unit=unit, leave=False, dynamic_ncols=True, disable=hidden)


class EvaluationBar(pl.Callback):
    """Counts evaluation batches."""

    def __init__(self, name: str):
        self.name = name

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar = bar(int(sum(trainer.num_val_batches)), f"evaluate {self.name}", "batch")

    def on_validation_batch_end(self, *_: object) -> None:
        self.bar.update()

    def on_validation_end(self, *_: object) -> None:
        self.bar.close()


class TrainingBar(pl.Callback):
    """Counts training batches over all epochs and shows the loss."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar = bar(int(trainer.estimated_stepping_batches), "train", "step", shown=trainer.is_global_zero)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict, *_: object) -> None:
        self.bar.update()
        self.bar.set_postfix(epoch=trainer.current_epoch, loss=f"{outputs['loss'].item():.3f}", refresh=False)

    def on_train_end(self, *_: object) -> None:
        self.bar.close()


class ReconstructionBar(pl.Callback):
    """Names the unit and shows its loss, in percent of its output's energy; plain lines where there is no terminal."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.done, self.num_units = pl_module.num_done, pl_module.num_done + trainer.max_epochs
        self.bar = bar(sum(pl_module.num_bursts), "reconstruct", "burst")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.set_description(f"reconstruct {self._place(trainer)} {pl_module.label(trainer.current_epoch)}")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        self.bar.set_postfix_str(f"loss {pl_module.unit.loss:.3g} %", refresh=False)
        self.bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        place, label = self._place(trainer), pl_module.label(trainer.current_epoch)
        level = logging.INFO if self.bar.disable else logging.DEBUG
        log.log(level, "  %7s  %-40s loss %.3g %%", place, label, pl_module.unit.loss)

    def on_train_end(self, *_: object) -> None:
        self.bar.close()

    def _place(self, trainer: pl.Trainer) -> str:
        return f"{self.done + trainer.current_epoch + 1}/{self.num_units}"
