"""A rounding method of one's own from a folder of one's own, at every entry that takes it."""

import json
import subprocess

import pytest
import yaml

from tests import processes
from tests.conftest import ROOT

METHOD = """
from dataclasses import dataclass

from attnround.quantization.rounding import RoundingMethod
from attnround.quantization.rounding.base import Decided

@dataclass(frozen=True)
class Down(RoundingMethod):
    by: float = 0.0

    @property
    def data_free(self):
        return True

    def start(self, u, grid, objective, generator, zero_point=0.0):
        return Decided((u - self.by).round().clamp(grid.qmin, grid.qmax))
"""
CONFIG = "# Rounds to nearest after a shift.\n_target_: mine.methods.Down\nby: 0.1 # of a step, downwards\n"


@pytest.fixture
def entry(tmp_path, image_folder):
    """Run an entry in a folder with a package and a folder of options; what makes a run small."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/methods.py").write_text(METHOD)
    (tmp_path / "own/quantizer").mkdir(parents=True)
    (tmp_path / "own/quantizer/down.yaml").write_text(CONFIG)
    small = [
        "model=timm", "model.name=test_resnet", "model.num_classes=10", "model.random_init=true",
        "model.preprocessing={input_size: [3, 32, 32]}", "data=image_folder", f"data.root={image_folder}",
        f"data.calibration={image_folder / 'calibration'}", "data.num_calibration=6", "data.num_workers=0",
        "bits=uniform",
    ]  # fmt: skip

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess:
        return processes.run([str(ROOT / f"src/{name}.py"), *arguments, "--config-dir", "own"], tmp_path)

    return run, small


def test_it_is_run(entry, tmp_path):
    run, small = entry
    done = run("train", *small, "quantizer=down", "quantizer.by=0.2", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/record.json").read_text())
    assert record["choices"]["quantizer"] == "down"
    assert record["config"]["quantizer"]["by"] == 0.2


def test_a_table_and_a_sweep_take_it(entry, tmp_path):
    run, small = entry
    table = {
        "caption": "Two methods.", "base": small, "seeds": [0], "compare": "method", "reference": "ours",
        "axes": {"method": {"nearest": "quantizer=nearest", "ours": "quantizer=down"}},
    }  # fmt: skip
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids/own.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    places = [f"{name}={tmp_path / name}" for name in ("grids", "rows", "results", "outputs", "readme")]
    done = run("tables", "tables=own", *places)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "| ours | 1 |" in (tmp_path / "results/own.md").read_text()

    sweep = {
        "method": "grid", "parameters": {"quantizer.by": {"values": [0.0, 0.3]}},
        "command": ["python", "${program}", *small, "quantizer=down", "${args_no_hyphens}"],
    }  # fmt: skip
    (tmp_path / "by.yaml").write_text(yaml.safe_dump(sweep))
    done = run("sweep", "by.yaml")
    assert done.returncode == 0, done.stderr + done.stdout
    assert len((tmp_path / "outputs/sweeps/by/by.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "words", "line"),
    [
        (
            "train",
            ["quantizer=down", "quantizer.bye=3"],
            "quantizer.bye=3: quantizer=down has no bye: give quantizer.by",
        ),
        ("train", ["quantizer=down", "bits=none"], "bits=none: give one of"),
        ("train", ["quantizer=don"], "quantizer=don: give one of down"),
        ("sweep", ["by.yaml", "-m"], "-m: of flags a sweep takes --config-dir alone"),
    ],
)
def test_what_is_wrong_is_said_of_it(entry, name, words, line):
    done = entry[0](name, *words)
    assert done.returncode == 1
    assert line in done.stderr
    assert "Traceback" not in done.stderr


def test_its_options_are_shown(entry):
    done = entry[0]("train", "--help", "quantizer=down")
    assert "Rounds to nearest after a shift" in done.stdout
    assert "of a step, downwards" in done.stdout


def test_a_class_that_is_not_there_is_one_line(entry, tmp_path):
    (tmp_path / "own/quantizer/other.yaml").write_text("_target_: nowhere.Method\n")
    done = entry[0]("train", *entry[1], "quantizer=other")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "quantizer: nowhere.Method cannot be imported" in line
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    done = processes.run([str(ROOT / "src/train.py"), "--config-dir", "nowhere"], tmp_path)
    assert done.stderr == "error: --config-dir=nowhere is not there: give a folder laid out like conf/\n"
