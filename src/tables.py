"""Run what is missing of the tables' rows, and write the tables anew from the rows.

python src/tables.py tables=rounding
python src/tables.py profile=quick hydra/launcher=joblib
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from entry import CONF, in_a_line, start

if TYPE_CHECKING:
    from attnround.results.cost import Cost
    from attnround.results.grid import Job

LOGGED_ONLY = ("hydra.job_logging.root.handlers=[file]",)  # a job says its lines in its folder
STANDARD = ("embedded", "full")  # whose tables are the committed ones
POLL_S = 0.5


@hydra.main(version_base="1.3", config_path=CONF, config_name="tables")
def main(cfg: DictConfig) -> None:
    """Run and write; the exit status is not 0 where a row failed."""
    from hydra.core.hydra_config import HydraConfig

    from attnround.errors import InputError

    launcher = [each for each in HydraConfig.get().overrides.hydra if each.startswith(("hydra/laun", "hydra.laun"))]
    try:
        failed = make_tables(cfg, launcher)
    except (InputError, OSError) as error:
        if cfg.debug:
            raise
        sys.exit(f"error: {in_a_line(error)}")
    if failed:
        sys.exit(f"error: {failed} rows failed; the next call runs them again")


def make_tables(cfg: DictConfig, launcher: Sequence[str]) -> int:
    """Run what is missing, unless dry_run says not to, and write the tables; the number of rows that failed."""
    from attnround.results.cost import Cost
    from attnround.results.grid import cells_of
    from attnround.results.published import read_published
    from attnround.results.row import read_rows
    from attnround.results.tables import write_tables

    grids = read_grids(cfg)
    hashes = {grid.name: hashes_of(grid.jobs) for grid in grids}
    rows = read_rows(Path(cfg.rows))
    wanted = {}  # config hash -> overrides: what several tables share is run once
    for grid in grids:
        wanted |= dict(zip(hashes[grid.name], map(full, grid.jobs), strict=True))
    missing = {each: overrides for each, overrides in wanted.items() if each not in rows or rows[each].error}
    cost = Cost(rows.values())
    for name, some in [*hashes.items(), ("together", wanted)]:
        lacking = {each: missing[each] for each in some if each in missing}
        told = cost.told(list(lacking.values()), workers(launcher))
        print(f"{name:<20} {len(set(some)):4} rows, {len(lacking):4} to run{told}", flush=True)
    if cfg.dry_run:
        return 0
    run_rows(missing, cfg, cost, launcher)
    rows = read_rows(Path(cfg.rows), wanted)
    folder = Path(cfg.results).joinpath(*[each for each in (cfg.models, cfg.profile) if each not in STANDARD])
    arguments = [
        f" {name}={each}" for name, each in (("DATA", cfg.models), ("PROFILE", cfg.profile)) if each not in STANDARD
    ]
    tables = [(grid, cells_of(grid, hashes[grid.name], rows)) for grid in grids]
    write_tables(tables, folder, read_published(Path(cfg.published)), "".join(arguments))
    print(f"{', '.join(grid.name for grid in grids)}: written to {folder}")
    failed = [row for row in rows.values() if row.error]
    for row in failed:
        print(f"failed: {row.command}: {row.error}")
    return len(failed)


def read_grids(cfg: DictConfig) -> list:
    """The tables that were asked for. Raises InputError where one is not as it should be."""
    from attnround.errors import InputError
    from attnround.results.grid import PROFILES, read_grid, read_models

    if cfg.profile not in PROFILES:
        raise InputError(f"profile={cfg.profile}: give one of {', '.join(PROFILES)}")
    folder = Path(CONF) / "table"
    models = read_models(folder / "models" / f"{cfg.models}.yaml")
    names = cfg.tables if isinstance(cfg.tables, ListConfig) else str(cfg.tables).split(",")
    names = sorted(each.stem for each in folder.glob("*.yaml")) if list(names) == ["all"] else names
    return [read_grid(folder / f"{name}.yaml", models, cfg.profile) for name in names]


def full(job: "Job") -> list[str]:
    """All overrides of a job."""
    return [*job.overrides, f"seed={job.seed}"]


def hashes_of(jobs: Sequence["Job"]) -> list[str]:
    """The config hash of each job. Raises InputError where one does not compose, or lacks a value."""
    from launching import compose

    from attnround.errors import InputError
    from attnround.results.record import config_hash

    composed = {}  # overrides -> config: a job differs from those of other seeds in its seed alone
    for job in jobs:
        if job.overrides not in composed:
            try:
                config, _ = compose(job.overrides)
                composed[job.overrides] = OmegaConf.to_container(config)
                OmegaConf.set_struct(config, False)
                config.logger = {}  # it names the folder of a run
                OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            except (hydra.errors.HydraException, OmegaConfBaseException) as error:
                raise InputError(f"{' '.join(job.overrides)}: {in_a_line(error)}") from error
    return [config_hash(composed[job.overrides] | {"seed": job.seed}) for job in jobs]


def run_rows(jobs: dict[str, list[str]], cfg: DictConfig, cost: "Cost", launcher: Sequence[str]) -> None:
    """Run these; a row's file is there when this returns, with its error where it failed."""
    from functools import partial

    from launching import launch

    from row_job import leave_row

    if jobs:
        with progress(jobs, Path(cfg.rows), cost):
            task = partial(leave_row, folder=cfg.rows)
            died = launch(jobs, task, Path(cfg.outputs), [*launcher, *LOGGED_ONLY])
        for line in died.values():
            print(f"failed: {line}")


@contextmanager
def progress(jobs: dict[str, list[str]], folder: Path, cost: "Cost") -> Iterator[None]:
    """Say what was run, and how long the rest may take: a bar in a terminal, else a line a row.

    It watches the folder of the rows, so it is the same whoever runs them, and wherever.
    """
    import threading
    import time

    from tqdm import tqdm

    paths = {each: folder / f"{each}.json" for each in jobs}
    before = {each: path.stat().st_mtime_ns if path.exists() else 0 for each, path in paths.items()}
    costs = {each: cost.seconds(overrides) or 60.0 for each, overrides in jobs.items()}
    left, over, begun = dict(costs), threading.Event(), time.monotonic()
    silent = not sys.stderr.isatty()
    bar = tqdm(
        total=len(jobs), unit="row", disable=silent, bar_format="{l_bar}{bar}| {n}/{total} rows {elapsed}{postfix}"
    )

    def look() -> None:
        for each in [each for each in left if paths[each].exists() and paths[each].stat().st_mtime_ns != before[each]]:
            del left[each]
            done = sum(costs.values()) - sum(left.values())
            minutes = (time.monotonic() - begun) / done * sum(left.values()) / 60
            bar.set_postfix_str(f"about {minutes:.0f} min left", refresh=False)
            bar.update()
            if silent:
                count = len(jobs) - len(left)
                print(f"{count}/{len(jobs)}  {' '.join(jobs[each])}  about {minutes:.0f} min left", flush=True)

    def watch() -> None:
        while not over.wait(POLL_S):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        look()
        bar.close()


def workers(launcher: Sequence[str]) -> int:
    """How many rows run at a time, as far as that can be known."""
    import os

    if not any("joblib" in each for each in launcher):
        return 1
    given = [int(each.split("=")[1]) for each in launcher if each.startswith("hydra.launcher.n_jobs=")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return given[0] if given and given[0] > 0 else cores


if __name__ == "__main__":
    start(main)
