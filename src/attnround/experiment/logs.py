"""What a run says on the way, and what every logger is told beyond what the fits log; and its end, whatever happens."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytorch_lightning.loggers import Logger

from attnround.experiment.record import Run
from attnround.experiment.tracking import WandbRun

log = logging.getLogger(__name__)


def say(stage: str, text: str) -> None:
    """One line per stage."""
    log.info("%-12s %s", stage, text)


@contextlib.contextmanager
def closing(loggers: Sequence[Logger], run: Run, groups: Sequence[str]) -> Iterator[None]:
    """Give the loggers the run's config and choices, and finish them even where it fails.

    groups: the config groups whose options tell a run of this task from others.
    """
    config = run.config | {"choices": run.choices, "config_hash": run.identity}
    with contextlib.ExitStack() as ends:  # all of them, even where one fails
        for logger in loggers:
            ends.push(functools.partial(finish, logger))
            if isinstance(logger, WandbRun):
                logger.begin(run, groups)
            logger.log_hyperparams(config)
        yield


def finish(logger: Logger, failure: type[BaseException] | None, *_: object) -> None:
    """Close what a logger writes to, with the run's failure as it comes to a context manager, or None."""
    logger.finalize("failed" if failure else "success")
    if isinstance(logger, WandbRun):
        logger.end(exit_code=int(failure is not None))


def publish(
    loggers: Sequence[Logger],
    metrics: dict[str, float],
    rows: Sequence[dict] = (),
    pictures: Sequence[Path] = (),
    files: Sequence[Path] = (),
) -> None:
    """Final metrics to all; the per-layer table, the pictures and the files of the model to W&B, which takes such."""
    for logger in loggers:
        logger.log_metrics(metrics)
        if isinstance(logger, WandbRun):
            logger.publish(rows, pictures, files)
