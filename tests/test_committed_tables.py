"""The committed tables are what the committed rows and conf/table give, and nothing else."""

import pytest

from attnround.results.pictures.marks import HATCHES
from attnround.results.pictures.run import COLOURS, MARKERS
from attnround.results.row import read_rows
from attnround.results.tables.grid import Grid, cells_of, read_grid, read_models
from attnround.results.tables.write import texts
from rows import plan
from tests.conftest import ROOT

TABLES = sorted((ROOT / "conf/table").glob("*.yaml"))
RESULTS = ROOT / "results/tables"
COMMITTED = sorted(RESULTS.glob("*.md"))


def hashes_of(grid: Grid) -> list[str]:
    return [run.config_hash for run in plan(grid.name, grid.jobs, grid.name)]


def test_the_headline_is_committed():
    assert "headline" in [path.stem for path in COMMITTED]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_table_is_that_of_the_committed_rows(path):
    grid = read_grid(ROOT / f"conf/table/{path.stem}.yaml", read_models(ROOT / "conf/table/models/embedded.yaml"))
    hashes = hashes_of(grid)
    cells = cells_of(grid, hashes, read_rows(ROOT / "results/rows", hashes))
    assert all(len(cell.rows) >= 3 and not any(row.error for row in cell.rows) for cell in cells)
    for suffix, text in texts(grid, cells).items():
        assert (RESULTS / f"{grid.name}.{suffix}").read_text() == text, f"{grid.name}.{suffix}: run make tables"
    for picture in grid.pictures:
        assert len(grid.axes.get(picture.get("line"), ())) <= len(COLOURS) == len(MARKERS) == len(HATCHES)
        for suffix in ("png", "svg"):
            assert (RESULTS / f"{grid.name}_{picture['file']}.{suffix}").stat().st_size > 0


def test_every_committed_row_is_in_a_table():
    models = read_models(ROOT / "conf/table/models/embedded.yaml")
    grids = [read_grid(ROOT / f"conf/table/{path.stem}.yaml", models) for path in COMMITTED]
    wanted = {each for grid in grids for each in hashes_of(grid)}
    assert {path.stem for path in (ROOT / "results/rows").glob("*.json")} == wanted


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_same_grid_composes_on_imagenet(path, monkeypatch):
    monkeypatch.setenv("IMAGENET_ROOT", "/data/imagenet")
    grid = read_grid(path, read_models(ROOT / "conf/table/models/imagenet.yaml"), "quick")
    runs = plan(grid.name, grid.jobs, grid.name)
    assert runs
    assert "/data" not in str([run.source for run in runs])  # where the images lie does not make another row
