"""The rows of tables and sweeps: which runs they need, and how these are run."""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attnround.cli.composed import composed
from attnround.cli.entry import ROOT, fitting, keep_empty, own_choices
from attnround.cli.options import FOLDERS, choices_of
from attnround.cli.words import check, explained
from attnround.errors import InputError, choice

if TYPE_CHECKING:
    from attnround.study.row import Row
    from attnround.study.runner import Planned, Workers
    from attnround.study.tables.cost import Cost

COMMITTED = ROOT / "results/rows"
NOT_SUBMITTED = ("submitit_folder", "max_num_timeout")  # options of the launcher that submitit's jobs do not take
OF_ANY_CLUSTER = (
    "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "stderr_to_stdout",
)  # fmt: skip
UNKNOWN_S = 60.0  # what a run may take that is like nothing that was run yet


def compose(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """The config of the run that `train` makes of these, and the option chosen in each group.

    Raises HydraException, OmegaConfBaseException or InputError where it does not compose.
    """
    check(overrides)
    config = composed(overrides)
    choices = own_choices(config.hydra.runtime.choices)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    OmegaConf.set_struct(config, True)
    keep_empty(config, overrides)
    return config, choices


def plan(group: str, jobs: Iterable[Sequence[str]], where: str) -> list["Planned"]:
    """The runs that these overrides make. group: the table's or sweep's name; where: what an error names.

    Raises InputError where a job does not compose, lacks a value, or has one of another kind than its option takes.
    """
    from attnround.experiment.identity import identity
    from attnround.study.runner import Planned

    known, runs = {}, []
    for job in jobs:
        seeds = [each for each in job if each.startswith("seed=") and each[len("seed=") :].isdigit()]
        others = tuple(each for each in job if each not in seeds)  # runs of other seeds differ in the seed alone
        if others not in known:
            try:
                config, choices = compose(others)
                known[others] = OmegaConf.to_container(config), choices
                OmegaConf.set_struct(config, False)
                config.logger = {}  # it names the folder of a run
                fitting(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
            except (HydraException, OmegaConfBaseException, InputError) as error:
                raise InputError(f"{where}: {explained(error, others)}") from error
        source, choices = known[others]
        source = source | ({"seed": int(seeds[-1].partition("=")[2])} if seeds else {})
        runs.append(Planned(group, tuple(job), identity(source, choices), source, choices))
    return runs


def missing_of(runs: Iterable["Planned"], rows: Mapping[str, "Row"]) -> dict[str, "Planned"]:
    """The runs, by their configs' hashes, that have no row yet, one that failed, or one of files that changed since."""
    found = {each.config_hash: each for each in runs if not holds(rows.get(each.config_hash), each)}
    changed = sum(each in rows and not rows[each].error for each in found)
    if changed:
        print(f"{changed} {'row is' if changed == 1 else 'rows are'} of a file that an option names and that changed")
    return found


def holds(row: "Row | None", planned: "Planned") -> bool:
    """Whether a row is that of a run as it would be now."""
    from attnround.experiment.sources import sources_of

    return row is not None and not row.error and row.sources == sources_of(planned.source)


def cost_by(rows: Mapping[str, "Row"], folder: Path) -> "Cost":
    """What runs cost, by the rows of this folder and by the committed ones."""
    from attnround.study.row import read_rows
    from attnround.study.tables.cost import Cost

    others = {} if folder.resolve() == COMMITTED else read_rows(COMMITTED)
    return Cost([*rows.values(), *others.values()])


def workers_of(launcher: Sequence[str]) -> "Workers":
    """What runs the rows, by Hydra's words for a launcher: `hydra/launcher=joblib hydra.launcher.n_jobs=2`.

    Raises InputError where there is no such launcher, or it has no such option.
    """
    from attnround.machine import num_cores
    from attnround.study.runner import Workers

    try:
        given = OmegaConf.to_container(composed(launcher).hydra.launcher)
    except HydraException as error:
        raise InputError(explained(error, launcher)) from error
    kind = given.pop("_target_").rsplit(".", 1)[-1]
    if kind == "JoblibLauncher":
        count = given["n_jobs"]
        return Workers(count if count and count > 0 else num_cores())
    cluster = {"LocalLauncher": "local", "SlurmLauncher": "slurm"}.get(kind)
    if cluster is None:
        return Workers()
    own = {key: value for key, value in given.items() if value is not None and key not in NOT_SUBMITTED}
    named = {key if key in OF_ANY_CLUSTER else f"{cluster}_{key}": value for key, value in own.items()}
    return Workers(cluster=cluster, parameters=named | {"name": "attnround"})


def run_rows(
    missing: Mapping[str, "Planned"],
    folder: Path,
    outputs: Path,
    cost: "Cost",
    workers: "Workers",
    loggers: Sequence[str] = ("csv",),
) -> None:
    """Run these; each one's file is in `folder` when this returns, with its error where it failed."""
    from attnround.study.claims import Claims
    from attnround.study.row import read_rows, write_row
    from attnround.study.runner import run_all

    if not missing:
        return
    writable(folder)
    with progress(missing, cost) as tell, contextlib.closing(Claims(folder)) as claims:

        def write(row: "Row") -> None:
            write_row(row, folder)
            claims.leave(row.config_hash)
            tell(row)

        def elsewhere(planned: "Planned") -> "Row | None":
            row = read_rows(folder, [planned.config_hash]).get(planned.config_hash)
            return row if holds(row, planned) else None

        run_all(
            missing.values(), outputs, workers, write, lambda each: _logged(loggers, each.group), elsewhere,
            lambda each: claims.take(each.config_hash), ROOT,
        )  # fmt: skip


def check_loggers(option: str, loggers: Iterable[str]) -> None:
    """Raise InputError where one of these is no logger, before anything is run. option: that names them."""
    for name in loggers:
        if name not in choices_of("logger"):
            raise InputError(choice(option, name, choices_of("logger")))


def writable(folder: Path) -> None:
    """Make the folder of the rows. Raises InputError where nothing can be written into it, before anything is run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: rows cannot be written there ({error.strerror}): give another folder") from error


def _logged(loggers: Sequence[str], group: str) -> list[str]:
    """What logs a run, where a logger groups runs under its table's or sweep's name, and finds its options."""
    grouped = [f"logger.{name}.group={group}" for name in ("wandb", "mlflow") if name in loggers]
    return [f"logger=[{','.join(loggers)}]", *grouped, *(f"--config-dir={folder}" for folder in FOLDERS[1:])]


def failed_of(rows: Iterable["Row"]) -> int:
    """Say which rows failed, and how; how many."""
    failed = [row for row in rows if row.error]
    for row in failed:
        print(f"failed: {row.command}: {row.error}")
    return len(failed)


@contextlib.contextmanager
def progress(runs: Mapping[str, "Planned"], cost: "Cost") -> Iterator[Callable[["Row"], None]]:
    """A function to be told of each row; it says how long the rest may take: a bar in a terminal, else a line a row."""
    import time

    from tqdm import tqdm

    left = {each: cost.seconds(run.source) or UNKNOWN_S for each, run in runs.items()}
    total, begun, silent = sum(left.values()), time.monotonic(), not sys.stderr.isatty()
    bar = tqdm(
        total=len(runs), unit="row", disable=silent, bar_format="{l_bar}{bar}| {n}/{total} rows {elapsed}{postfix}"
    )

    def tell(row: "Row") -> None:
        del left[row.config_hash]
        remaining = sum(left.values())
        minutes = (time.monotonic() - begun) / (total - remaining) * remaining / 60
        rest = f"about {minutes:.0f} min left" if minutes >= 1 else "less than a minute left"
        bar.set_postfix_str(rest, refresh=False)
        bar.update()
        if silent:
            said = " ".join(runs[row.config_hash].overrides)
            print(f"{len(runs) - len(left)}/{len(runs)}  {said}  {rest}", flush=True)

    with bar:
        yield tell
