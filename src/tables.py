"""Run what is missing of the tables' rows, and write the tables anew from the rows.

python src/tables.py tables=rounding
python src/tables.py profile=quick hydra/launcher=joblib
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, ListConfig

from entry import CONF, ROOT, in_a_line, start

if TYPE_CHECKING:
    from attnround.results.tables.grid import Grid

STANDARD = ("embedded", "full")  # whose tables are the committed ones
COMMITTED = ROOT / "results/rows"  # by which costs are estimated


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
    from attnround.results.record import write_atomically
    from attnround.results.row import read_rows
    from attnround.results.tables.cost import Cost
    from attnround.results.tables.grid import cells_of
    from attnround.results.tables.published import read_published
    from attnround.results.tables.write import put_into, write_tables
    from rows import plan, run_rows, workers

    grids = read_grids(cfg)
    published = read_published(Path(cfg.published))
    plans = {grid.name: plan(grid) for grid in grids}
    wanted = {each: planned for hashes, every in plans.values() for each, planned in every.items()}
    rows, own = read_rows(Path(cfg.rows)), Path(cfg.rows).resolve() == COMMITTED
    missing = {each: planned for each, planned in wanted.items() if each not in rows or rows[each].error}
    cost = Cost([*rows.values(), *([] if own else read_rows(COMMITTED).values())])
    for name, some in [*((name, every) for name, (_, every) in plans.items()), ("together", wanted)]:
        lacking = [missing[each].overrides for each in some if each in missing]
        told = cost.told(lacking, workers(launcher))
        print(f"{name:<20} {len(some):4} rows, {len(lacking):4} to run{told}", flush=True)
    if cfg.dry_run:
        return 0
    run_rows(missing, Path(cfg.rows), Path(cfg.outputs), cost, launcher, names_of(cfg.logger))
    rows = read_rows(Path(cfg.rows), wanted)
    special = {"DATA": cfg.models, "PROFILE": cfg.profile}
    special = {name: each for name, each in special.items() if each not in STANDARD}
    folder = Path(cfg.results) / (cfg.models if "DATA" in special else "")
    tables = [(grid, cells_of(grid, plans[grid.name][0], rows)) for grid in grids]
    write_tables(tables, folder, published, "".join(f" {name}={each}" for name, each in special.items()))
    print(f"{', '.join(grid.name for grid in grids)}: written to {folder}")
    readme = Path(cfg.readme)
    if not special and readme.exists():
        write_atomically(readme, put_into(readme.read_text(), folder))
    failed = [row for row in rows.values() if row.error]
    for row in failed:
        print(f"failed: {row.command}: {row.error}")
    return len(failed)


def read_grids(cfg: DictConfig) -> list["Grid"]:
    """The tables that were asked for. Raises InputError where one is not as it should be."""
    from attnround.errors import InputError
    from attnround.results.pictures.wanted import pictures_of
    from attnround.results.tables.grid import PROFILES, read_grid, read_models

    if cfg.profile not in PROFILES:
        raise InputError(f"profile={cfg.profile}: give one of {', '.join(PROFILES)}")
    folder = Path(cfg.grids)
    models = read_models(Path(CONF) / "table/models" / f"{cfg.models}.yaml")
    names = names_of(cfg.tables)
    names = sorted(each.stem for each in folder.glob("*.yaml")) if names == ["all"] else names
    grids = [read_grid(folder / f"{name}.yaml", models, cfg.profile) for name in names]
    for grid in grids:
        pictures_of(grid)
    return grids


def names_of(given: object) -> list[str]:
    """A list, or one name."""
    return [str(each) for each in given] if isinstance(given, ListConfig) else [str(given)]


if __name__ == "__main__":
    start(main)
