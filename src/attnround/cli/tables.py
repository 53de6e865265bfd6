"""Run what is missing of the tables, and write them anew from their rows: Markdown, CSV, LaTeX and pictures.

python src/tables.py                                                 every table of conf/table
python src/tables.py tables=rounding                                 one of them
python src/tables.py profile=quick hydra/launcher=joblib             a part of each, in minutes
python src/tables.py dry_run=true                                    what is missing, and what it would cost
python src/tables.py models=imagenet hydra/launcher=submitit_slurm   on a cluster
"""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, ListConfig

from attnround.cli.entry import CONF, failing_in_a_line, start

if TYPE_CHECKING:
    from attnround.study.row import Row
    from attnround.study.runner import Planned, Workers
    from attnround.study.tables.cost import Cost
    from attnround.study.tables.grid import Grid
    from attnround.study.tables.published import Published

STANDARD = ("embedded", "full")  # whose tables are the committed ones
MAKE = {"models": "DATA", "profile": "PROFILE"}  # option -> make's name of it
PLAIN = re.compile(r"[\w./-]+")  # what Hydra's command line takes without quotes
COMMITTED = {"grids": "{shipped}/conf/table", "rows": "{root}/results/rows", "results": "{root}/results/tables"}


@hydra.main(version_base="1.3", config_path=CONF, config_name="tables")
def run(cfg: DictConfig) -> None:
    """Run and write; the exit status is not 0 where a row failed."""
    from hydra.core.hydra_config import HydraConfig

    given = HydraConfig.get().overrides
    launcher = [each for each in given.hydra if each.startswith(("hydra/laun", "hydra.laun"))]
    with failing_in_a_line(cfg):
        failed = make_tables(cfg, launcher, any(each.lstrip("+").startswith("readme=") for each in given.task))
    if failed:
        rows = "1 row" if failed == 1 else f"{failed} rows"
        sys.exit(f"error: {rows} failed; the next call runs them again")


def make_tables(cfg: DictConfig, launcher: Sequence[str], readme_given: bool) -> int:
    """Run what is missing, unless dry_run says not to, and write the tables; the number of rows that failed."""
    from attnround.cli.rows import check_loggers, cost_by, failed_of, missing_of, plan, run_rows, workers_of
    from attnround.errors import InputError
    from attnround.study.row import read_rows
    from attnround.study.tables.published import read_published

    if not isinstance(cfg.dry_run, bool):
        raise InputError(f"dry_run={cfg.dry_run}: give true or false")
    check_loggers("loggers", names_of(cfg.loggers))
    grids, published = read_grids(cfg), read_published(Path(cfg.published))
    runs = {grid.name: plan(grid.name, grid.jobs, f"table {grid.name}") for grid in grids}
    wanted = {run.config_hash: run for some in runs.values() for run in some}
    rows = read_rows(Path(cfg.rows))
    missing, cost = missing_of(wanted.values(), rows), cost_by(rows, Path(cfg.rows))
    workers = workers_of(launcher)
    tell(runs | {"together": list(wanted.values())}, missing, cost, workers)
    if cfg.dry_run:
        return 0
    run_rows(missing, Path(cfg.rows), Path(cfg.outputs), cost, workers, names_of(cfg.loggers))
    rows = read_rows(Path(cfg.rows), wanted)
    hashes = {name: [run.config_hash for run in some] for name, some in runs.items()}
    write(cfg, grids, hashes, rows, published, readme_given)
    return failed_of(rows.values())


def tell(
    runs: Mapping[str, Sequence["Planned"]], missing: Mapping[str, "Planned"], cost: "Cost", workers: "Workers"
) -> None:
    """Say how many rows each table has, how many are to be run, and how long that may take."""
    for name, some in runs.items():
        lacking = [run.source for run in some if run.config_hash in missing]
        estimate = cost.estimate(lacking, workers.count)
        print(f"{name:<20} {len(some):4} rows, {len(lacking):4} to run{estimate}", flush=True)


def write(
    cfg: DictConfig,
    grids: Sequence["Grid"],
    hashes: Mapping[str, Sequence[str]],
    rows: Mapping[str, "Row"],
    published: Sequence["Published"],
    readme_given: bool,
) -> None:
    """Write the tables; the README shows those of the embedded models, of one's own grids or rows where it was given.

    hashes: table -> of its runs, in their order.
    """
    from attnround.errors import listed
    from attnround.files import write_atomically
    from attnround.study.tables.grid import cells_of
    from attnround.study.tables.write import put_into, write_tables

    special = special_of(cfg)
    folder = Path(cfg.results) / (cfg.models if "models" in special else "")
    tables = [(grid, cells_of(grid, hashes[grid.name], rows)) for grid in grids]
    write_tables(tables, folder, published, partial(made_by, cfg))
    readme, own, said = Path(cfg.readme), [] if readme_given else own_places(cfg), ""
    if own and not special and readme.exists():
        said = f"; {readme} stays as it is, for {listed(own)} are your own: readme=<file> has these tables put into it"
    elif not special and readme.exists():
        write_atomically(readme, put_into(readme.read_text(), folder))
        said = f" and into {readme}"
    print(f"{', '.join(grid.name for grid in grids)}: written to {folder}{said}")


def special_of(cfg: DictConfig) -> dict[str, str]:
    """The options that make other tables than the committed ones, without the places."""
    return {name: cfg[name] for name in ("models", "profile") if cfg[name] not in STANDARD}


def made_by(cfg: DictConfig, name: str) -> str:
    """The command that makes the table of this name."""
    from attnround.cli.options import FOLDERS
    from attnround.files import quoted

    special, own = special_of(cfg), own_places(cfg)
    if not (own or FOLDERS[1:]):
        return " ".join([f"make tables TABLE={name}", *(f"{MAKE[key]}={each}" for key, each in special.items())])
    options = {"tables": name, **special, **{place: str(cfg[place]) for place in own}}
    words = [f"{key}={each if PLAIN.fullmatch(each) else quoted(each)}" for key, each in options.items()]
    return shlex.join(["python", "src/tables.py", *(f"--config-dir={folder}" for folder in FOLDERS[1:]), *words])


def own_places(cfg: DictConfig) -> list[str]:
    """Which of the grids, rows and results are not those of the committed tables."""
    usual = {name: Path(place.format(**cfg.paths)) for name, place in COMMITTED.items()}
    return [name for name, place in usual.items() if Path(cfg[name]).resolve() != place.resolve()]


def read_grids(cfg: DictConfig) -> list["Grid"]:
    """The tables that were asked for. Raises InputError where one is not as it should be."""
    from attnround.errors import InputError
    from attnround.study.pictures.wanted import pictures_of
    from attnround.study.tables.grid import PROFILES, read_grid, read_models

    if cfg.profile not in PROFILES:
        raise InputError(f"profile={cfg.profile}: give one of {', '.join(PROFILES)}")
    folder = Path(cfg.grids)
    models = read_models(Path(CONF) / "table/models" / f"{cfg.models}.yaml")
    names = names_of(cfg.tables)
    is_all = names == ["all"]
    there = sorted(each.stem for each in folder.glob("*.yaml"))
    grids = [read_grid(folder / f"{name}.yaml", models, cfg.profile) for name in (there if is_all else names)]
    grids = [grid for grid in grids if grid.in_all or not is_all]
    if not grids:
        way = f"give some of {', '.join(there)}" if there else f"{folder} has none: give grids=<another folder>"
        raise InputError(f"tables={cfg.tables} is no table: {way}")
    for grid in grids:
        pictures_of(grid)
    return grids


def names_of(given: object) -> list[str]:
    """A list, or one name."""
    return [str(each) for each in given] if isinstance(given, ListConfig) else [str(given)]


def main() -> None:
    """The entry."""
    start(run)
