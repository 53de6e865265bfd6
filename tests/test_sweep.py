"""`python src/sweep.py` as a user meets it: small sweeps really run, and what is wrong told before anything runs."""

import csv
import subprocess
from pathlib import Path

import pytest

from tests import processes
from tests.conftest import ROOT

SWEEP = """
program: src/train.py
method: grid
metric: {name: quantized/sqnr_db, goal: maximize}
parameters:
  quantizer.sigma: {values: [0.25, -1]}
  seed: {values: [0]}
command: ["${env}", python, "${program}", bits=uniform, quantizer.num_steps=200, logger=wandb, "${args_no_hyphens}"]
"""


@pytest.fixture
def sweep(tmp_path):
    def run(content: str, *arguments: str) -> subprocess.CompletedProcess:
        (tmp_path / "small.yaml").write_text(content)
        return processes.run([str(ROOT / "src/sweep.py"), "small.yaml", *arguments], tmp_path)

    return run


@pytest.fixture
def small(image_folder):
    """The real config, shrunken to a few images of noise and a model that nobody trained."""
    return [
        "model=timm", "model.name=test_resnet", "model.num_classes=10", "model.random_init=true",
        "model.preprocessing={input_size: [3, 32, 32]}", "data=image_folder",
        f"data.root={image_folder}", f"data.calibration={image_folder / 'calibration'}", "data.num_calibration=6",
        "data.num_workers=0", "reconstruction.num_positions=4", "quantizer.num_steps=2",
    ]  # fmt: skip


def test_a_sweep_runs_tells_what_failed_and_goes_on(sweep, small, tmp_path):
    folder = tmp_path / "outputs/sweeps/small"
    done = sweep(SWEEP, *small, "hydra/launcher=joblib", "hydra.launcher.n_jobs=1")
    assert done.returncode == 1
    assert "grid, 2 runs, 2 to run" in done.stdout
    assert "2/2  bits=uniform" in done.stdout
    assert "failed: python src/train.py bits=uniform" in done.stdout
    assert "best quantized/sqnr_db: without 1 of 2 points, of which a run failed or has no finite" in done.stdout
    assert done.stderr == "error: 1 of 2 runs failed; the same command runs these again\n"
    rows = _rows(folder)
    assert [row["quantizer.sigma"] for row in rows] == ["0.25", "-1"]
    assert [bool(row["quantized/sqnr_db"]) for row in rows] == [True, False]
    assert "sigma=-1" in rows[1]["error"]
    assert (folder / "small.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "small.svg").exists()
    assert not list(folder.glob("*/wandb"))

    row = folder / f"rows/{rows[0]['config_hash']}.json"
    content, written = row.read_text(), row.stat().st_mtime_ns
    place = "hydra.sweep.dir='outputs/sweeps/small'"
    again = sweep(SWEEP.replace("0.25, -1", "0.25"), *small, place)
    assert again.returncode == 0, again.stderr
    assert "1 runs, 0 to run" in again.stdout
    assert row.stat().st_mtime_ns == written
    assert [each["quantized/sqnr_db"] for each in _rows(folder)] == [rows[0]["quantized/sqnr_db"]]
    drawn = SWEEP.replace("grid", "random").replace("0.25, -1", "0.25")
    twice = sweep(drawn.replace("parameters", "run_cap: 3\nparameters"), *small, place)
    assert "2 of 3 points are runs that others are too" in twice.stdout
    assert "random search, 1 runs, 0 to run" in twice.stdout
    assert "±" not in twice.stdout  # one run has no spread
    assert len(_rows(folder)) == 1
    row.write_text(content[:100])  # as a full disk leaves it
    refused = sweep(SWEEP, *small)
    assert refused.returncode == 1
    assert f"{row.name}: cut off or edited by hand" in refused.stderr


WRONG = {
    "unknown parameter": (SWEEP.replace("quantizer.sigma", "quantizer.sigm"), [], "quantizer.sigm"),
    "unknown option of a group": (
        SWEEP.replace("bits=uniform", "bits=unifrom"),
        [],
        "bits=unifrom: give one of uniform",
    ),
    "unknown override": (SWEEP, ["quantizer.lrr=1"], "quantizer.lrr"),
    "launcher": (SWEEP, ["hydra/launcher=nodes"], "basic, joblib"),
    "launcher's option": (SWEEP, ["hydra.launcher.n_jbs=1"], "n_jbs"),
    "another of Hydra's options": (SWEEP, ["hydra.run.dir=mine"], "hydra.run.dir=mine: of Hydra's a sweep takes"),
    "unknown logger": (SWEEP, ["logger=[csv, 'foo']"], "logger=foo: give one of csv, mlflow"),
    "unknown metric": (SWEEP.replace("sqnr_db", "sqnr"), [], "metric.name=quantized/sqnr: give quantized/sqnr_db"),
    "empty": ("method: grid", [], "parameters are missing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_before_anything_runs(sweep, case, tmp_path):
    content, arguments, word = WRONG[case]
    done = sweep(content, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert word in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


def test_a_sweeps_file_may_lie_where_a_path_has_an_equals_sign(tmp_path):
    (tmp_path / "a=b").mkdir()
    (tmp_path / "a=b/mine.yaml").write_text("method: grid")
    done = processes.run([str(ROOT / "src/sweep.py"), "a=b/mine.yaml"], tmp_path)
    assert done.stderr == "error: a=b/mine.yaml: parameters are missing: give options and their values\n"


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "small.csv").open() as file:
        return list(csv.DictReader(file))
