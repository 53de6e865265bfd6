"""The committed tables are what the committed rows and conf/table give, and nothing else."""

import pytest

from attnround.cli.rows import plan
from attnround.experiment.style import COLOURS
from attnround.study.row import read_rows
from attnround.study.tables.grid import Grid, cells_of, read_grid, read_models
from attnround.study.tables.write import texts
from tests.conftest import ROOT

TABLES = sorted((ROOT / "conf/table").glob("*.yaml"))
RESULTS = ROOT / "results/tables"
COMMITTED = sorted(RESULTS.glob("*.md"))


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


def test_the_committed_tables_are_those_of_the_committed_rows_and_no_row_is_in_none():
    models, wanted = read_models(ROOT / "conf/table/models/embedded.yaml"), set()
    for path in COMMITTED:
        grid = read_grid(ROOT / f"conf/table/{path.stem}.yaml", models)
        hashes = [run.config_hash for run in plan(grid.name, grid.jobs, grid.name)]
        check(grid, hashes)
        wanted |= set(hashes)
    assert {path.stem for path in (ROOT / "results/rows").glob("*.json")} == wanted


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_same_grid_composes_on_imagenet(path, monkeypatch):
    monkeypatch.setenv("IMAGENET_ROOT", "/data/imagenet")
    grid = read_grid(path, read_models(ROOT / "conf/table/models/imagenet.yaml"), "quick")
    runs = plan(grid.name, grid.jobs, grid.name)
    assert runs
    assert "/data" not in str([run.source for run in runs])  # where the images lie does not make another row
