"""What a run says on the way, and what every logger is told beyond what the fits log; and its end, whatever happens."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytorch_lightning.loggers import Logger

from attnround.results.table import plain

log = logging.getLogger(__name__)


def say(stage: str, text: str) -> None:
    """One line per stage."""
    log.info("%-12s %s", stage, text)


@contextlib.contextmanager
def closing(loggers: Sequence[Logger], config: dict) -> Iterator[None]:
    """Give the loggers the config, and finish them even where the run fails."""
    status = "failed"
    try:
        for logger in loggers:
            logger.log_hyperparams(config)
        yield
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)
        if (wandb := sys.modules.get("wandb")) and wandb.run is not None:
            wandb.finish(exit_code=int(status == "failed"))


def publish(
    loggers: Sequence[Logger], metrics: dict[str, float], rows: Sequence[dict], pictures: Sequence[Path]
) -> None:
    """Final metrics to all; the per-layer table and the pictures to those that take such (W&B does)."""
    for logger in loggers:
        logger.log_metrics(metrics)
        if rows and hasattr(logger, "log_table"):
            cells = [[plain(value) for value in row.values()] for row in rows]
            logger.log_table("layers", columns=list(rows[0]), data=cells)
        if hasattr(logger, "log_image"):
            for picture in pictures:
                logger.log_image(picture.stem, [str(picture)])
