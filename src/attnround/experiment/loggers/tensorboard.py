"""TensorBoard: curves, the final metrics beside the options (the HPARAMS tab), the layers as a text, the pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from attnround.experiment.loggers.base import Row, hyperparameters, need, status
from attnround.experiment.record import Run
from attnround.table import markdown_table, plain


class TensorBoardRun(TensorBoardLogger):
    """Lightning's logger; the model stays in the run's folder, as TensorBoard takes no files.

    Raises InputError where tensorboard is not installed.
    """

    def __init__(self, save_dir: str, name: str = "", version: str = "tensorboard"):
        need("tensorboard", "tensorboard", extra="tensorboard")
        super().__init__(save_dir, name=name, version=version, default_hp_metric=False)

    def begin(self, run: Run, groups: Sequence[str]) -> None:
        """Keep the options, for hparams.yaml and, with the metrics that they led to, for the HPARAMS tab."""
        self.log_hyperparams(hyperparameters(run))

    def publish(
        self, metrics: dict[str, float], rows: Sequence[Row], pictures: Sequence[Path], files: Sequence[Path]
    ) -> None:
        """The metrics as scalars and beside the options, a table of the layers in Markdown, the pictures."""
        self.log_hyperparams(self.hparams, metrics)
        if rows:
            cells = [[plain(value) for value in row.values()] for row in rows]
            self.experiment.add_text("layers", markdown_table(list(rows[0]), cells))
        for picture in pictures:
            with Image.open(picture) as image:
                pixels = np.asarray(image)
            self.experiment.add_image(f"pictures/{picture.stem}", pixels, dataformats="HWC")

    def finalize(self, status: str) -> None:
        """The end of a fit, which is not that of the run."""

    def end(self, failure: BaseException | None) -> None:
        """Close the event file."""
        super().finalize(status(failure))
