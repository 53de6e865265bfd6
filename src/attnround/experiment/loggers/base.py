"""What a run asks of a logger, and what it makes of one that knows nothing of runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, runtime_checkable

from pytorch_lightning.loggers import Logger

from attnround.errors import InputError
from attnround.experiment.identity import computing
from attnround.experiment.record import Run

Row = Mapping[str, object]


@runtime_checkable
class RunLogger(Protocol):
    """Takes a whole run: what it is made of, its metrics, table, pictures and model, and how it ended.

    In between, fits log to it as to any logger of Lightning. `Plain` makes one of a logger that is none.
    """

    def begin(self, run: Run, groups: Sequence[str]) -> None:
        """The run is about to start. groups: those whose options tell it from others. Raises InputError."""

    def publish(
        self, metrics: dict[str, float], rows: Sequence[Row], pictures: Sequence[Path], files: Sequence[Path]
    ) -> None:
        """What the run came to. rows: one a layer; pictures: PNG files; files: the model's, and record.json."""

    def end(self, failure: BaseException | None) -> None:
        """The run is over, by this failure if by any; also called where `begin` failed."""


@dataclass
class Plain:
    """A logger of Lightning as a run's: hyper-parameters and metrics, which is what all of them take."""

    logger: Logger

    def begin(self, run: Run, groups: Sequence[str]) -> None:
        self.logger.log_hyperparams(hyperparameters(run))

    def publish(
        self, metrics: dict[str, float], rows: Sequence[Row], pictures: Sequence[Path], files: Sequence[Path]
    ) -> None:
        self.logger.log_metrics(metrics)

    def end(self, failure: BaseException | None) -> None:
        self.logger.finalize(status(failure))


def run_logger(logger: Logger) -> RunLogger:
    """The logger itself where it takes runs, else made to."""
    return logger if isinstance(logger, RunLogger) else Plain(logger)


def status(failure: BaseException | None) -> str:
    """Lightning's word for how a run ended."""
    return "success" if failure is None else "failed"


def hyperparameters(run: Run) -> dict[str, object]:
    """The options that a run's result depends on, nested as its config is, its choices and its identity.

    Where something lies on this machine stands apart, under `paths`, so that equal runs of two machines look equal.
    """
    options, paths = without_paths(computing(run.config))
    return options | {"choices": run.choices, "config_hash": run.identity, "paths": paths}


def without_paths(options: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Nested options without those that are absolute paths, and these alone, nested alike.

    >>> without_paths({"seed": 0, "data": {"root": "/images", "limit": None}})
    ({'seed': 0, 'data': {'limit': None}}, {'data': {'root': '/images'}})
    """
    kept, paths = {}, {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            kept[key], inner = without_paths(value)
            paths |= {key: inner} if inner else {}
        else:
            (paths if isinstance(value, str) and Path(value).is_absolute() else kept)[key] = value
    return kept, paths


def need(logger: str, *packages: str, extra: str) -> None:
    """Raise InputError where a package that this logger writes with is not installed. extra: ours that brings them."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise InputError(f"logger={logger} needs {missing[0]}: pip install 'attnround[{extra}]'")
