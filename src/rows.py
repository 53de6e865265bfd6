"""The rows of tables and sweeps: which runs they need, how these are run, and what each leaves whatever happens."""

import contextlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from entry import ROOT, carry_out, in_a_line, run_of

if TYPE_CHECKING:
    from attnround.results.row import Row
    from attnround.results.tables.cost import Cost

COMMITTED = ROOT / "results/rows"
LOGGED_ONLY = ("hydra.job_logging.root.handlers=[file]",)  # a job says its lines in its folder
KEPT_FOR_RESUME = ("reconstruction.pt", "qat")  # not taken up: an unfinished row runs anew, and its seconds count all


@dataclass(frozen=True)
class Planned:
    """A run that a table or sweep wants: its overrides, its config as written, and the option chosen in each group."""

    group: str
    overrides: tuple[str, ...]
    config_hash: str
    source: dict
    choices: dict[str, str]


def plan(group: str, jobs: Iterable[Sequence[str]], where: str) -> list[Planned]:
    """The runs that these overrides make. group: the table's or sweep's name; where: what an error names.

    Raises InputError where a job does not compose, or lacks a value.
    """
    from attnround.errors import InputError
    from attnround.results.record import config_hash
    from launching import compose

    composed, runs = {}, []
    for job in jobs:
        seeds = [each for each in job if each.startswith("seed=") and each[len("seed=") :].isdigit()]
        others = tuple(each for each in job if each not in seeds)  # runs of other seeds differ in the seed alone
        if others not in composed:
            try:
                config, choices = compose(others)
                composed[others] = OmegaConf.to_container(config), choices
                OmegaConf.set_struct(config, False)
                config.logger = {}  # it names the folder of a run
                OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            except (HydraException, OmegaConfBaseException) as error:
                raise InputError(f"{where}, {' '.join(others)}: {in_a_line(error)}") from error
        source, choices = composed[others]
        source = source | ({"seed": int(seeds[-1].partition("=")[2])} if seeds else {})
        runs.append(Planned(group, tuple(job), config_hash(source), source, choices))
    return runs


def missing_of(runs: Iterable[Planned], rows: Mapping[str, "Row"]) -> dict[str, Planned]:
    """The runs, by their configs' hashes, that have no row yet, or one that failed."""
    return {each.config_hash: each for each in runs if each.config_hash not in rows or rows[each.config_hash].error}


def cost_by(rows: Mapping[str, "Row"], folder: Path) -> "Cost":
    """What runs cost, by the rows of this folder and by the committed ones."""
    from attnround.results.row import read_rows
    from attnround.results.tables.cost import Cost

    others = {} if folder.resolve() == COMMITTED else read_rows(COMMITTED)
    return Cost([*rows.values(), *others.values()])


def run_rows(
    missing: Mapping[str, Planned],
    folder: Path,
    outputs: Path,
    cost: "Cost",
    launcher: Sequence[str] = (),
    loggers: Sequence[str] = ("csv",),
) -> None:
    """Run these; each one's file is there when this returns, with its error where it failed."""
    from functools import partial

    from attnround.results.row import failed_row, write_row
    from launching import launch
    from watching import progress

    if not missing:
        return
    jobs = {each: [*planned.overrides, *_logged(loggers, planned.group)] for each, planned in missing.items()}
    with progress(missing, folder, cost):
        task = partial(leave_row, folder=str(folder.resolve()))
        died = launch(jobs, task, outputs, [*launcher, *LOGGED_ONLY])
    for each, line in died.items():
        planned = missing[each]
        write_row(failed_row(planned.source, planned.choices, command_of(planned.overrides), line, ROOT), folder)


def _logged(loggers: Sequence[str], group: str) -> list[str]:
    """Overrides that log a run, in W&B under its table's or sweep's name."""
    return [f"logger=[{','.join(loggers)}]", *([f"logger.wandb.group={group}"] if "wandb" in loggers else [])]


def failed_of(rows: Iterable["Row"]) -> int:
    """Say which rows failed, and how; how many."""
    failed = [row for row in rows if row.error]
    for row in failed:
        print(f"failed: {row.command}: {row.error}")
    return len(failed)


def workers(launcher: Sequence[str]) -> int:
    """How many rows run at a time, as far as that can be known."""
    from attnround.machine import num_cores

    if not any("joblib" in each for each in launcher):
        return 1
    given = [int(each.split("=")[1]) for each in launcher if each.startswith("hydra.launcher.n_jobs=")]
    return given[0] if given and given[0] > 0 else num_cores()


def leave_row(cfg: DictConfig, folder: str) -> None:
    """Run, and write the run's row into `folder`; where it fails, its error. What it prints goes into its own log."""
    import shutil

    from attnround.results.row import failed_row, row_of, write_row

    run = run_of(cfg)
    command = command_of(HydraConfig.get().overrides.task)
    try:
        with (run.output_dir / "stderr.log").open("w") as log, contextlib.redirect_stderr(log):  # no bars: no terminal
            carry_out(cfg, run)
        row = row_of(json.loads((run.output_dir / "record.json").read_text()), run.source, command)
    except Exception as error:  # whatever it is, the other rows go on
        logging.getLogger(__name__).exception("failed")
        line = in_a_line(error) or type(error).__name__
        row = failed_row(run.source, run.choices, command, line, ROOT)
    write_row(row, Path(folder))
    for name in KEPT_FOR_RESUME:
        path = run.output_dir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def command_of(overrides: Sequence[str]) -> str:
    """What a person would type for this run; where else it is logged does not belong to it."""
    return " ".join(["python src/train.py", *(each for each in overrides if not each.startswith("logger"))])
