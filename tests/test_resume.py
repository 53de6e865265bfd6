"""kill -9 at any moment: the same command with `resume` ends with the bits of a run that nobody killed."""

from pathlib import Path

import pytest
import torch

from tests import processes
from tests.conftest import ROOT

SMALL = (
    "model=timm", "model.name=resnet18", "model.random_init=true", "model.num_classes=10",
    "model.small_image_stem=true",
    "model.arguments={in_chans: 1, channels: [8, 16, 16, 24], layers: [1, 1, 1, 1], zero_init_last: false}",
    "model.preprocessing={input_size: [1, 28, 28], mean: [0.3], std: [0.3]}",
    "data.num_calibration=64", "data.limit=100", "quantizer.num_steps=20", "reconstruction.burst=10", "bits=uniform",
    "bits.bit_width=3",
)  # fmt: skip
HYDRA = ("config", "hydra", "overrides")
OBJECTIVES = {
    "layer": ("reconstruction=layer",),
    "layer_then_block": ("reconstruction=layer_then_block", "reconstruction.num_steps=20", "activation=lsq"),
}


@pytest.mark.parametrize("objective", [pytest.param("layer_then_block", marks=pytest.mark.slow), "layer"])
def test_killed_twice_it_ends_with_the_same_bits(objective, tmp_path):
    def command(*more: str) -> list[str]:
        return [str(ROOT / "src/train.py"), *SMALL, *OBJECTIVES[objective], *more]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert processes.run(command(f"hydra.run.dir={whole}"), tmp_path).returncode == 0
    processes.killed("attnround.reconstruction.Checkpoint.save", 1, command(f"hydra.run.dir={broken}"), tmp_path)
    step = "attnround.reconstruction.loop.ReconstructionLoop.run_burst"
    processes.killed(step, 7, command(f"resume={broken}"), tmp_path)  # between two bursts of a later unit
    assert len(torch.load(broken / "reconstruction.pt", weights_only=True)["reports"]) > 1
    assert not (broken / "record.json").exists()
    assert processes.run(command(f"resume={broken}"), tmp_path).returncode == 0

    one, two = (torch.load(folder / "reconstruction.pt", weights_only=True) for folder in (whole, broken))
    assert one["layers"].keys() == two["layers"].keys()
    for name, state in one["layers"].items():
        for key, value in state.items():
            assert torch.equal(value, two["layers"][name][key]), f"{name} {key}"
    assert [each | {"seconds": 0} for each in one["reports"]] == [each | {"seconds": 0} for each in two["reports"]]
    assert (broken / "record.json").exists()


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_asked_to_end_a_run_says_how_it_goes_on(name, status, tmp_path):
    saved = "attnround.reconstruction.Checkpoint.save"
    command = [str(ROOT / "src/train.py"), *SMALL, *OBJECTIVES["layer"], "hydra.run.dir=run"]
    stopped = processes.run([str(ROOT / "tests/killed.py"), name, saved, "2", *command], tmp_path)
    assert stopped.returncode == status, stopped.stderr
    *_, line = stopped.stderr.splitlines()
    assert line == f"stopped by {name}: go on with the same options and resume=run"
    assert "Traceback" not in stopped.stderr
    assert len(torch.load(tmp_path / "run/reconstruction.pt", weights_only=True)["reports"]) == 2
    assert not (tmp_path / "run/record.json").exists()


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a run, its log aside, which says that somebody asked."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_new_run_that_cannot_be_leaves_an_old_ones_folder_as_it_was(train, tmp_path):
    small = [each for each in SMALL if "num_steps" not in each]
    done = train(*small, "quantizer=nearest", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    before = contents(tmp_path / "run")
    done = train(*small, "quantizer=gptq", "reconstruction=block", "hydra.run.dir=run")
    assert "give reconstruction=layer" in done.stderr
    after = contents(tmp_path / "run")
    assert {name for name in before if after[name] != before[name]} <= {f".hydra/{each}.yaml" for each in HYDRA}
    assert "evaluate" not in done.stdout  # it was known from the words


@pytest.mark.parametrize("options", [["quantizer.num_steps=2"], ["quantizer=nearest"]])
def test_resume_refuses_another_config_and_a_missing_folder_in_a_line(train, tmp_path, options):
    small = [*(each for each in SMALL if "num_steps" not in each), *options]
    done = train(*small, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    before = contents(tmp_path / "run")
    other = train(*small, "resume=run", "bits.bit_width=4")
    missing = train(*small, "resume=nowhere")
    assert "another config" in other.stderr
    assert "nowhere is not there" in missing.stderr
    for refused in (other, missing):
        assert refused.returncode == 1
        assert "Traceback" not in refused.stderr
        assert len([line for line in refused.stderr.splitlines() if line.startswith("error:")]) == 1
    assert contents(tmp_path / "run") == before
    assert not (tmp_path / "nowhere").exists()
