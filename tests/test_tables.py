"""The tables' entry as a user meets it: killed, run again, with rows that fail, and with input that is wrong."""

import json
import subprocess
from pathlib import Path

import hydra
import pytest
import yaml

from attnround.cli.tables import COMMITTED, made_by, write
from attnround.graph import captured, find_layers
from attnround.study.row import read_rows
from attnround.zoo import TimmModel
from tests import processes
from tests.conftest import ROOT
from tests.study.tables.made_up import GRID

SIDE = "model.preprocessing={input_size: [3, 32, 32]}"
TABLE = {
    "caption": "Three methods, one of which fails.",
    "base": [
        "bits=uniform",
        "model=timm",
        "model.name=test_resnet",
        "model.num_classes=10",
        "model.random_init=true",
        SIDE,
    ],
    "axes": {
        "method": {
            "nearest": "quantizer=nearest",
            "stochastic": "quantizer=stochastic",
            "broken": ["quantizer=gptq", "reconstruction=block"],
        }
    },
    "seeds": [0],
    "compare": "method",
    "reference": "nearest",
    "columns": ["top1", "difference", "sqnr_db"],
    "quick": {"seeds": [0], "axes": {"method": ["nearest"]}},
}


@pytest.fixture
def command(image_folder, tmp_path):
    """`python src/tables.py` on a folder of tables, rows and results of its own."""
    (tmp_path / "grids").mkdir()
    data = ["data=image_folder", f"data.root={image_folder}", f"data.calibration={image_folder / 'calibration'}"]
    table = TABLE | {"base": [*TABLE["base"], *data, "data.num_calibration=6", "data.num_workers=0"]}
    (tmp_path / "grids/methods.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    (tmp_path / "readme").write_text("Ours:\n<!-- table methods -->\n<!-- end -->\n")
    places = [f"{name}={tmp_path / name}" for name in ("grids", "rows", "results", "outputs", "readme")]
    return [str(ROOT / "src/tables.py"), *places]


def run(command: list[str], *more: str) -> subprocess.CompletedProcess:
    return processes.run([*command, *more], ROOT)


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}


def test_a_killed_table_goes_on_and_a_failed_row_stops_no_other(command, tmp_path):
    rows = tmp_path / "rows"
    processes.killed("attnround.study.row.write_row", 1, command, ROOT)
    before = written(rows)
    assert len(before) == 1

    done = run(command)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: 1 row failed; the next call runs them again"
    assert "Traceback" not in done.stdout + done.stderr
    assert f"methods {3:17} rows, {3 - len(before):4} to run" in done.stdout
    after = written(rows)
    assert len(after) == 3
    assert before.items() <= after.items()  # what was there is not run again
    errors = {row.command.split("quantizer=")[1].split()[0]: row.error for row in read_rows(rows).values()}
    assert errors["nearest"] is errors["stochastic"] is None
    assert "give reconstruction=layer" in errors["gptq"]
    table = (tmp_path / "results/methods.md").read_text()
    assert "| broken | 0 of 1 ‡ | failed: " in table
    assert "| nearest | 1" in table
    assert "<!-- table methods -->\n| method | seeds |" in (tmp_path / "readme").read_text()

    again = run(command)
    assert "   1 to run" in again.stdout  # what failed, and nothing else
    assert {name: when for name, when in written(rows).items() if after[name] == when}.keys() == {
        f"{each}.json" for each, row in read_rows(rows).items() if row.error is None
    }
    assert (tmp_path / "results/methods.md").read_text().splitlines()[:7] == table.splitlines()[:7]


def test_a_row_of_a_file_that_changed_is_run_again(command, tmp_path):
    path, bits = tmp_path / "grids/methods.yaml", tmp_path / "bits.json"
    table = yaml.safe_load(path.read_text())
    table["base"] += ["bits=file", f"bits.path={bits}", "quantizer=nearest"]
    table["axes"] = {"method": {"nearest": "data.num_calibration=5"}}
    path.write_text(yaml.safe_dump(table, sort_keys=False))
    names = find_layers(captured(TimmModel("test_resnet", random_init=True, num_classes=10).build()))
    for width, said in (
        (6, "1 to run"),
        (6, "0 to run"),
        (2, "1 row is of a file that an option names and that changed"),
    ):
        bits.write_text(json.dumps(dict.fromkeys(names, width)))
        done = run(command)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        (row,) = read_rows(tmp_path / "rows").values()
        assert row.metrics["bits/mean"] == width
        assert set(row.sources) == {"bits.path"}


def test_a_table_that_is_not_of_all_is_made_by_its_name(command, tmp_path):
    path = tmp_path / "grids/methods.yaml"
    (tmp_path / "grids/alone.yaml").write_text(f"in_all: false\n{path.read_text()}")
    assert "alone" not in run(command, "dry_run=true").stdout
    assert "alone" in run(command, "dry_run=true", "tables=alone").stdout


def test_the_quick_profile_is_a_part_of_the_table(command, tmp_path):
    said = run(command, "profile=quick", "dry_run=true")
    assert said.returncode == 0
    assert f"methods {1:17} rows, {1:4} to run, 1 of unknown cost" in said.stdout
    assert not (tmp_path / "rows").exists()
    done = run(command, "profile=quick", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1")
    assert done.returncode == 0, done.stderr
    assert "| method" not in (tmp_path / "readme").read_text()
    assert (tmp_path / "results/methods.csv").exists()
    places = " ".join(f"{name}={tmp_path / name}" for name in ("grids", "rows", "results"))
    made = f"`python src/tables.py tables=methods profile=quick {places}` makes this table."
    assert made in (tmp_path / "results/methods.md").read_text()
    assert "0 to run" in run(command, "profile=quick", "dry_run=true").stdout


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ([], "make tables TABLE=one"),
        (["models=imagenet", "profile=quick"], "make tables TABLE=one DATA=imagenet PROFILE=quick"),
        (["grids='of mine'"], """python src/tables.py tables=one 'grids='"'"'of mine'"'"''"""),
    ],
)
def test_a_table_names_the_command_that_makes_it(options, command):
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra.compose("tables", [f"paths.root={ROOT}", *options])
    if "profile=quick" in options:  # in their own folders by default
        cfg.update({"rows": ROOT / "results/rows", "results": ROOT / "results/tables"})
    assert made_by(cfg, "one") == command


@pytest.mark.parametrize("own", ["", "grids", "rows", "results", "readme"])
def test_the_readme_shows_tables_of_ones_own_only_where_it_is_given(tmp_path, capsys, own):
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        options = [f"paths.root={tmp_path}", f"{own or 'outputs'}={tmp_path / 'mine'}"]
        cfg = hydra.compose("tables", options if own != "readme" else [*options[:1], f"rows={tmp_path}"])
    text = "<!-- table rounding -->\n<!-- end -->\n"
    (tmp_path / "README.md").write_text(text)
    hashes = {GRID.name: [""] * len(GRID.jobs)}
    write(cfg, [GRID], hashes, {}, [], readme_given=own == "readme")
    stays = own in COMMITTED
    assert ((tmp_path / "README.md").read_text() == text) == stays
    said = f"README.md stays as it is, for {own} are your own" if stays else f" and into {tmp_path / 'README.md'}\n"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["tables=rownding"], "tables=rownding: there is no {grids}/rownding.yaml; give one of methods"),
        (["tables=[]"], "tables=[] is no table: give some of methods"),
        (["dry_run=flase"], "dry_run=flase: give true or false"),
        (["loggers=[csv,wandbb]", "dry_run=true"], "loggers=wandbb: give wandb"),
        (["profile=fast"], "profile=fast: give one of full, quick"),
        (["models=own"], "models=own: give one of embedded, imagenet"),
        (["grids={root}/conf/table", "tables=rounding", "models=imagenet"], "Environment variable 'IMAGENET_ROOT'"),
        (
            ["rows=/dev/null/rows"],
            "/dev/null/rows: rows cannot be written there (Not a directory)",
        ),
        (["hydra/launcher=submitit_moon"], "hydra/launcher=submitit_moon is not installed"),
    ],
)
def test_bad_input_is_one_line(command, tmp_path, options, line):
    places = {"grids": tmp_path / "grids", "root": ROOT}
    done = run(command, *(option.format(**places) for option in options))
    assert done.returncode == 1
    assert line.format(**places) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "rows").exists()


def test_a_table_of_an_option_that_is_not_there_is_refused_before_anything_runs(command, tmp_path):
    path = tmp_path / "grids/methods.yaml"
    path.write_text(path.read_text().replace("quantizer=stochastic", "quantizer.sigmo=1"))
    done = run(command)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "table methods" in done.stderr
    assert "sigmo" in done.stderr
    assert not (tmp_path / "rows").exists()


def test_a_row_that_was_edited_is_refused_by_name(command, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/0123456789ab.json").write_text("{}")
    done = run(command)
    assert done.returncode == 1
    assert "rows/0123456789ab.json: cut off or edited by hand; remove it, and it is run again" in done.stderr
    assert len(written(tmp_path / "rows")) == 1
