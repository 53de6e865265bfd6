"""kill -9 at any moment: the same command with `resume` ends with the bits of a run that nobody killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.conftest import ROOT

SMALL = ("data.num_calibration=64", "data.limit=100", "quantizer.num_steps=60", "bits=uniform", "bits.bit_width=3")
OBJECTIVES = {
    "layer": ("reconstruction=layer",),
    "layer_then_block": ("reconstruction=layer_then_block", "reconstruction.num_steps=20", "activation=lsq"),
}


def finished_units(folder) -> int:
    """Of a run that may be writing at this moment: a checkpoint is whole or not there."""
    path = folder / "reconstruction.pt"
    return len(torch.load(path, weights_only=True)["reports"]) if path.exists() else 0


def killed_after(command: list[str], cwd, folder, num_units: int, delay: float) -> None:
    """Start the command, and send it SIGKILL `delay` seconds after so many units are finished."""
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 200
    while finished_units(folder) < num_units:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("objective", [pytest.param("layer_then_block", marks=pytest.mark.slow), "layer"])
def test_killed_twice_it_ends_with_the_same_bits(objective, tmp_path):
    def command(*more: str) -> list[str]:
        return [sys.executable, str(ROOT / "src/train.py"), *SMALL, *OBJECTIVES[objective], *more]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(f"hydra.run.dir={whole}"), cwd=tmp_path, check=True, capture_output=True)
    killed_after(command(f"hydra.run.dir={broken}"), tmp_path, broken, 1, 0.0)
    killed_after(command(f"resume={broken}"), tmp_path, broken, finished_units(broken) + 3, 0.03)
    assert not (broken / "record.json").exists()
    subprocess.run(command(f"resume={broken}"), cwd=tmp_path, check=True, capture_output=True)

    one, two = (torch.load(folder / "reconstruction.pt", weights_only=True) for folder in (whole, broken))
    assert one["layers"].keys() == two["layers"].keys()
    for name, state in one["layers"].items():
        for key, value in state.items():
            assert torch.equal(value, two["layers"][name][key]), f"{name} {key}"
    assert [each | {"seconds": 0} for each in one["reports"]] == [each | {"seconds": 0} for each in two["reports"]]
    assert (broken / "record.json").exists()


def test_resume_refuses_another_config_and_a_missing_folder_in_a_line(train, tmp_path):
    done = train(*SMALL, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    before = (tmp_path / "run/reconstruction.pt").read_bytes()
    other = train(*SMALL, "resume=run", "bits.bit_width=4")
    missing = train(*SMALL, "resume=nowhere")
    assert "another config" in other.stderr
    assert "nowhere is not there" in missing.stderr
    for refused in (other, missing):
        assert refused.returncode == 1
        assert "Traceback" not in refused.stderr
        assert len([line for line in refused.stderr.splitlines() if line.startswith("error:")]) == 1
    assert (tmp_path / "run/reconstruction.pt").read_bytes() == before
    assert not (tmp_path / "nowhere").exists()
