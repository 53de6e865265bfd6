from dataclasses import replace

import pytest
import yaml
from tests.conftest import ROOT
from tests.study.test_row import row

from attnround.errors import InputError
from attnround.study.pictures.wanted import pictures_of
from attnround.study.tables.cost import Cost
from attnround.study.tables.grid import cells_of, read_grid, read_models

MODELS = {"slim": "model=slim", "own": ["model=timm", "model.name=own"]}
TABLE = {
    "caption": "Two methods.",
    "base": ["bits=uniform"],
    "axes": {"model": "models", "bits": {"W4": "bits.bit_width=4"}, "method": {"A": "quantizer=a", "B": "quantizer=b"}},
    "seeds": [0, 1],
    "compare": "method",
    "reference": "B",
    "quick": {"seeds": [0], "axes": {"method": ["A"]}},
}


@pytest.fixture
def grid_of(tmp_path):
    def read(profile: str = "full", **changed: object):
        path = tmp_path / "methods.yaml"
        path.write_text(
            yaml.safe_dump(
                {key: value for key, value in (TABLE | changed).items() if value is not None}, sort_keys=False
            )
        )
        return read_grid(path, MODELS, profile)

    return read


def test_a_job_is_a_label_of_each_axis_and_a_seed(grid_of):
    jobs = grid_of().jobs
    assert len(jobs) == 2 * 1 * 2 * 2
    assert jobs[-1] == (
        "bits=uniform", "model=timm", "model.name=own", "bits.bit_width=4", "quantizer=b", "seed=1",
    )  # fmt: skip


def test_labels_may_be_numbers(grid_of):
    axes = {"method": {"A": "quantizer=a"}, "bits": {4: "bits.bit_width=4", 3: "bits.bit_width=3"}}
    grid = grid_of(axes=axes, compare="bits", reference=4)
    assert (grid.reference, list(grid.axes["bits"])) == ("4", ["4", "3"])


def test_an_axis_may_be_called_by_a_number(grid_of):
    axes = {"model": "models", 4: {"A": "quantizer=a", "B": "quantizer=b"}}
    given = {"axes": axes, "compare": 4, "skip": [{4: "A", "model": "own"}], "quick": {"seeds": [0], "axes": {4: "A"}}}
    grid = grid_of(**given, pictures=[{"file": "a", "kind": "bars", "x": 4, "y": "top1", "only": {4: "B"}}])
    assert (grid.compare, list(grid.axes)) == ("4", ["model", "4"])
    assert len(grid.places) == 3
    assert list(grid_of("quick", **given).axes["4"]) == ["A"]
    assert pictures_of(replace(grid, axes=grid.axes | {"model": {"slim": ()}}))[0].x == "4"


@pytest.mark.parametrize("read", [read_models, lambda path: read_grid(path, MODELS)], ids=["models", "table"])
@pytest.mark.parametrize("content", [b"caption: \xff", b"a: 2026-02-30", b"{"], ids=["no UTF-8", "no day", "cut off"])
def test_a_file_that_is_no_yaml_is_one_line(tmp_path, read, content):
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"mine\.yaml cannot be read: [^\n]*$"):
        read(tmp_path / "mine.yaml")


def test_one_label_is_a_list_of_one(grid_of):
    assert list(grid_of("quick", quick={"axes": {"model": "own"}}).axes["model"]) == ["own"]
    with pytest.raises(InputError, match=r"quick: axes=\['model'\]: give {axis"):
        grid_of("quick", quick={"axes": ["model"]})


def test_what_is_skipped_is_not_run(grid_of):
    places = grid_of(skip=[{"model": "own", "method": ["A", "B"]}, {"method": "A"}]).places
    assert places == [{"model": "slim", "bits": "W4", "method": "B"}]


def test_the_quick_profile_is_a_part_of_the_table(grid_of):
    quick, full = grid_of("quick").jobs, grid_of().jobs
    assert len(quick) == 2
    assert all(job in full for job in quick)


def test_a_part_without_the_reference_has_no_differences(grid_of):
    columns = ["difference", "sqnr_db", "difference_db"]
    quick = grid_of("quick", columns=columns)
    assert (quick.reference, quick.columns) == (None, ("sqnr_db",))
    assert grid_of("quick", columns=columns[:1]).columns == ("top1",)
    assert grid_of(columns=columns).columns == tuple(columns)


def test_cells_hold_the_rows_that_are_there(grid_of):
    grid = grid_of()
    hashes = [f"{i}" for i in range(8)]
    cells = cells_of(grid, hashes, {"2": row(0), "3": row(1), "5": row(1, error="no")})
    assert [len(cell.rows) for cell in cells] == [0, 2, 1, 0]
    assert cells[2].rows[0].error == "no"
    assert [cell.place for cell in cells] == grid.places


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"colums": ["top1"]}, "colums.* is not an option of a table; give axes, base"),
        ({"columns": ["top2"]}, "columns: top2 is not on offer; give top1"),
        ({"axes": {}}, "axes is missing"),
        ({"axes": {"method": {}}}, "the axis method is empty"),
        ({"axes": {"method": {"A": 3}}}, "method.A=3: give option=value"),
        ({"skip": [{"method": ["A", "B"]}]}, "the grid is empty"),
        ({"skip": [{"method": "C"}]}, "skip: method has no label C"),
        ({"seeds": []}, r"seeds=\[\]: give a list of whole numbers"),
        ({"seeds": None}, "seeds=None: give a list"),
        ({"compare": "model2"}, "compare=model2 is none of its axes model, bits, method"),
        ({"reference": "C"}, "reference=C is none of the labels of method: A, B"),
        ({"base": "bits"}, "base=bits: give option=value"),
        ({"in_all": "no"}, "in_all=no: give true or false"),
        ({"seeds": [0, 0]}, "one stands there twice"),
        ({"axes": {"device": {"A": "quantizer=a"}}}, "the axis device is called as a column of the CSV is"),
        ({"seeds": [-1]}, "seed=-1: give a whole number of at least 0"),
        ({"base": ["seed=3"]}, "base=\\['seed=3'\\]: the seeds of all lines are those of seeds"),
        ({"quick": {"axs": {}}}, "quick: it has axs: give axes and seeds alone"),
        ({"quick": [0]}, r"quick=\[0\]: give {seeds"),
        ({"pictures": 5}, "pictures=5: give a list"),
        ({"skip": 5}, "skip=5: give a list"),
        ({"reference": ["A"]}, "reference=.* give a label of the axis compare"),
    ],
)
def test_a_wrong_table_is_one_line_that_names_the_file(grid_of, changed, line):
    with pytest.raises(InputError, match=f"methods.yaml: .*{line}"):
        grid_of(**changed)


def test_a_missing_table_and_missing_models_say_what_there_is(tmp_path):
    (tmp_path / "there.yaml").write_text("")
    with pytest.raises(InputError, match=r"tables=here: .* give one of there"):
        read_grid(tmp_path / "here.yaml", MODELS)
    with pytest.raises(InputError, match="models=here: give one of there"):
        read_models(tmp_path / "here.yaml")


TABLES = sorted((ROOT / "conf/table").glob("*.yaml"))


@pytest.mark.parametrize("models", ["embedded", "imagenet"])
@pytest.mark.parametrize("profile", ["full", "quick"])
@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_committed_tables_can_be_read(path, profile, models):
    grid = read_grid(path, read_models(ROOT / f"conf/table/models/{models}.yaml"), profile)
    assert len(grid.seeds) >= (3 if profile == "full" and grid.in_all else 1)
    assert grid.jobs


def test_a_run_costs_what_its_like_did():
    def config(model: str, method: str, seed: int = 2, **more: object) -> dict:
        return {"model": {"name": model}, "quantizer": {"method": method}, "seed": seed, **more}

    rows = [
        row(config=config("a", "x", 0), metrics={"time/total_s": 10.0}),
        row(config=config("a", "x", 1), metrics={"time/total_s": 20.0}),
        row(config=config("a", "y", 0), metrics={"time/total_s": 100.0}),
        row(config=config("a", "z", 0), metrics={}, error="no"),
    ]
    cost = Cost(rows)
    assert cost.seconds(config("a", "x")) == 15
    assert cost.seconds(config("a", "x", logger={"csv": 1})) == 15  # it makes no other run
    assert cost.seconds(config("a", "y", bits={"budget": 3})) == 100
    assert cost.seconds(config("b", "x")) is None
    assert cost.estimate([config("a", "y"), config("b", "y")], workers=1) == ", about 2 minutes, 1 of unknown cost"
