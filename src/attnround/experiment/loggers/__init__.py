"""What a run says on the way, and what its loggers are told beyond what the fits log; and their end, whatever happens.

A logger is any of Lightning's. One that takes more than numbers is a `RunLogger`, in a file of its own here.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytorch_lightning.loggers import Logger

from attnround.experiment.loggers.base import Row, RunLogger, run_logger
from attnround.experiment.record import Run
from attnround.reconstruction import UnitReport

log = logging.getLogger(__name__)


def say(stage: str, text: str) -> None:
    """One line per stage."""
    log.info("%-12s %s", stage, text)


def kept_starts(reports: Sequence[UnitReport], held_out: bool) -> str:
    """What to add to the line of a reconstruction about units that kept what they started from; nothing where none did.

    held_out: whether there were images kept from learning, to judge what was learned by.
    """
    kept = sum(not report.kept for report in reports)
    judged = " on held-out images" if held_out else ""
    said = f"; {kept} of {len(reports)} units kept their start: what was learned was no better{judged}"
    return said if kept else ""


@contextlib.contextmanager
def closing(loggers: Sequence[Logger], run: Run, groups: Sequence[str]) -> Iterator[None]:
    """Tell the loggers what the run is made of, and close them even where it fails.

    groups: the config groups whose options tell a run of this task from others.
    """
    with contextlib.ExitStack() as ends:  # all of them, even where one fails
        for logger in map(run_logger, loggers):
            ends.push(functools.partial(_end, logger))
            logger.begin(run, groups)
        yield


def _end(logger: RunLogger, _: object, failure: BaseException | None, __: object) -> None:
    """End it as a context manager would be."""
    logger.end(failure)


def publish(
    loggers: Sequence[Logger],
    metrics: dict[str, float],
    rows: Sequence[Row] = (),
    pictures: Sequence[Path] = (),
    files: Sequence[Path] = (),
) -> None:
    """What the run came to: final metrics, a row a layer, pictures (PNG), the files of the model and record.json."""
    for logger in map(run_logger, loggers):
        logger.publish(metrics, rows, pictures, files)
