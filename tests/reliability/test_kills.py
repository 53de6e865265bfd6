"""kill -9 at a random moment: what goes on from there ends as if nobody had killed it, wherever it had come to."""

import json
import random
from pathlib import Path

import pytest
import yaml

from attnround.study.row import read_rows
from tests import processes
from tests.conftest import ROOT
from tests.reliability import small

MODES = {
    "layer": (),
    "block": ("reconstruction=block", "reconstruction.num_steps=8", "reconstruction.minibatch=4"),
    "auto": ("bits=auto", "bits.num_trials=2", "bits.max_drop=100"),
    "training with labels": (
        "data=image_folder", "data.num_workers=0", "data.num_calibration=4", "activation=mse", "qat=lsq",
        "qat.batch_size=4", "qat.num_epochs=3",
    ),
}  # fmt: skip
KEPT = ("quantized.safetensors", "allocation.json", "trials.json", "qat.csv")  # to the bit, seconds aside
SEVERAL = (  # after each call of these, whoever waits for several runs may be killed
    "attnround.study.runner.begin",
    "attnround.study.row.write_row",
    "attnround.study.runner.tidy",
    "os.replace",
)
METHODS = ("nearest", "stochastic", "nearest_calibrated")


def results(folder: Path) -> dict[str, object]:
    """What must be the same to the bit."""
    found: dict[str, object] = {name: (folder / name).read_bytes() for name in KEPT if (folder / name).exists()}
    if "qat.csv" in found:
        lines = (folder / "qat.csv").read_text().splitlines()
        found["qat.csv"] = [line.split(",") for line in lines]
        seconds = lines[0].split(",").index("seconds")
        for line in found["qat.csv"]:
            del line[seconds]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_killed_anywhere_it_ends_with_the_same_bits(mode, tmp_path, tally):
    images, whole, faults = small.pictures(tmp_path / "images"), tmp_path / "whole", []

    def run(folder: Path, resume: bool = False) -> None:
        small.quantize(folder, images, MODES[mode], resume)

    for number, (place, times) in enumerate(small.moments(lambda: run(whole), seed=0)):
        broken = tmp_path / str(number)
        processes.killed(
            place, times, [str(ROOT / "tests/reliability/small.py"), str(broken), str(images), *MODES[mode]], tmp_path
        )
        complete = not (broken / "record.json").exists() or (broken / "quantized.safetensors").exists()
        run(broken, resume=True)
        same = results(broken) == results(whole) and not list(broken.glob(".*.part"))
        faults.append(None if same and complete else f"{place} for the {times}th time")
    tally(f"kill -9: {mode}", faults)


def table(folder: Path, base: list[str]) -> list[str]:
    """`python src/tables.py` on a table of three rows, below this folder."""
    axes = {"method": {name: f"quantizer={name}" for name in METHODS}}
    content = {
        "caption": "Three methods.", "base": base, "axes": axes, "seeds": [0], "compare": "method",
        "reference": "nearest", "columns": ["sqnr_db"], "quick": {"seeds": [0], "axes": {"method": ["nearest"]}},
    }  # fmt: skip
    (folder / "grids").mkdir()
    (folder / "grids/methods.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "readme").write_text("<!-- table methods -->\n<!-- end -->\n")
    places = [f"{name}={folder / name}" for name in ("grids", "rows", "results", "outputs", "readme")]
    return [str(ROOT / "src/tables.py"), *places]


def sweep(folder: Path, base: list[str]) -> list[str]:
    """`python src/sweep.py` on a sweep of the same three runs, in this folder."""
    content = {
        "program": "src/train.py", "method": "grid", "metric": {"name": "quantized/sqnr_db", "goal": "maximize"},
        "parameters": {"quantizer": {"values": [*METHODS]}},
        "command": ["${env}", "python", "${program}", "${args_no_hyphens}"],
    }  # fmt: skip
    (folder / "methods.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return [str(ROOT / "src/sweep.py"), "methods.yaml", *base]


ROWS = {"tables": (table, "rows"), "sweep": (sweep, "outputs/sweeps/methods/rows")}


def numbers(rows: Path) -> dict[str, object]:
    """What rows say but for their seconds: nothing may be lost, nothing may have failed."""
    return {
        each: row.error
        or {key: value for key, value in row.metrics.items() if not key.startswith(("time/", "memory/"))}
        for each, row in read_rows(rows).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("entry", ROWS)
def test_killed_anywhere_several_runs_go_on_and_no_row_is_lost_or_made_twice(entry, tmp_path, tally):
    (make, rows), images, draw, faults = ROWS[entry], small.pictures(tmp_path / "images"), random.Random(0), []
    base = [*small.WORDS, f"data.root={images}"]
    base = [each for each in base if not each.startswith(("logger", "quantizer"))]

    def begun(name: str) -> tuple[Path, list[str]]:
        folder = tmp_path / name
        folder.mkdir()
        return folder, make(folder, base)

    whole, command = begun("whole")
    assert processes.run(command, whole).returncode == 0
    for place in SEVERAL:
        folder, command = begun(place)
        times = draw.randint(1, len(METHODS))
        processes.killed(place, times, command, folder)
        before = {path: path.stat().st_mtime_ns for path in (folder / rows).glob("*.json")}
        done = processes.run(command, folder)
        good = done.returncode == 0 and numbers(folder / rows) == numbers(whole / rows)
        kept = all(path.stat().st_mtime_ns == when for path, when in before.items())
        faults.append(None if good and kept else f"{place} for the {times}th time: {done.stderr}")
    tally(f"kill -9: {entry}", faults)


@pytest.mark.slow
def test_killed_anywhere_the_runs_of_a_multirun_go_on_one_by_one(tmp_path, tally):
    images, draw, faults = small.pictures(tmp_path / "images"), random.Random(0), []
    words = [str(ROOT / "src/train.py"), *small.WORDS, f"data.root={images}"]

    def sqnr(folder: Path) -> list[float]:
        return [
            json.loads((folder / f"{seed}/record.json").read_text())["metrics"]["quantized/sqnr_db"] for seed in (0, 1)
        ]

    def multirun(folder: Path) -> list[str]:
        return [*words, "-m", "seed=0,1", f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=${hydra.job.num}"]

    assert processes.run(multirun(tmp_path / "whole"), tmp_path).returncode == 0
    for number, place in enumerate(("attnround.reconstruction.Checkpoint.save", "os.replace")):
        folder, times = tmp_path / str(number), draw.randint(4, 12)
        processes.killed(place, times, multirun(folder), tmp_path)
        for seed in (0, 1):
            (folder / str(seed)).mkdir(parents=True, exist_ok=True)
            done = processes.run([*words, f"seed={seed}", f"resume={folder / str(seed)}"], tmp_path)
            assert done.returncode == 0, done.stderr
        faults.append(None if sqnr(folder) == sqnr(tmp_path / "whole") else f"{place} for the {times}th time")
    tally("kill -9: multirun", faults)
