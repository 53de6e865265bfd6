"""The committed tables are what the committed rows and conf/table give, and nothing else."""

import functools

import pytest

from attnround.cli.rows import plan
from attnround.experiment.style import COLOURS
from attnround.study.row import read_rows
from attnround.study.tables.grid import Grid, cells_of, read_grid, read_models
from attnround.study.tables.write import texts
from tests.conftest import ROOT
from tests.slow import parameters

TABLES = sorted((ROOT / "conf/table").glob("*.yaml"))
RESULTS = ROOT / "results/tables"
COMMITTED = sorted(RESULTS.glob("*.md"))
# A changed default or identity changes those tables too that are looked at always.
SLOW = {
    "activations", "allocators", "calibration", "estimator", "granularity", "metric", "qat", "rounding", "seeds",
    "sigma",
}  # fmt: skip


def test_the_headline_is_committed():
    assert "headline" in [path.stem for path in COMMITTED]


def check(grid: Grid, hashes: list[str]) -> None:
    """The table's files are what its rows give."""
    cells = cells_of(grid, hashes, read_rows(ROOT / "results/rows", hashes))
    num_seeds = 3 if grid.in_all else 1  # of the photographs there is one draw, and intervals are over them
    assert all(len(cell.rows) >= num_seeds and not any(row.error for row in cell.rows) for cell in cells)
    for suffix, text in texts(grid, cells).items():
        assert (RESULTS / f"{grid.name}.{suffix}").read_text() == text, f"{grid.name}.{suffix}: run make tables"
    for picture in grid.pictures:
        assert len(grid.axes.get(picture.get("line"), ())) <= len(COLOURS)
        for suffix in ("png", "svg"):
            assert (RESULTS / f"{grid.name}_{picture['file']}.{suffix}").stat().st_size > 0


@functools.cache
def grid_of(name: str) -> Grid:
    return read_grid(ROOT / f"conf/table/{name}.yaml", read_models(ROOT / "conf/table/models/embedded.yaml"))


@functools.cache
def hashes_of(name: str) -> list[str]:
    """Of the configs of a table's runs, whose composition takes a third of a second each."""
    return [run.config_hash for run in plan(name, grid_of(name).jobs, name)]


@pytest.mark.parametrize("name", parameters([path.stem for path in COMMITTED], SLOW))
def test_a_committed_table_is_that_of_the_committed_rows(name):
    check(grid_of(name), hashes_of(name))


@pytest.mark.slow
def test_no_committed_row_is_in_no_table():
    wanted = {each for path in COMMITTED for each in hashes_of(path.stem)}
    assert {path.stem for path in (ROOT / "results/rows").glob("*.json")} == wanted


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_same_grid_composes_on_imagenet(path, monkeypatch):
    monkeypatch.setenv("IMAGENET_ROOT", "/data/imagenet")
    grid = read_grid(path, read_models(ROOT / "conf/table/models/imagenet.yaml"), "quick")
    runs = plan(grid.name, grid.jobs, grid.name)
    assert runs
    assert "/data" not in str([run.source for run in runs])  # where the images lie does not make another row
