"""kill -9 at a random moment: the same run with `resume` ends with the same bits, wherever it had come to."""

import signal
from pathlib import Path

import pytest

from tests import processes
from tests.conftest import ROOT
from tests.reliability import small

MODES = {
    "layer": (),
    "block": ("reconstruction=block", "reconstruction.num_steps=8", "reconstruction.minibatch=4"),
}
KILLS = 4  # in each mode, one of each kind of moment


def results(folder: Path) -> dict[str, bytes]:
    """What must be the same to the bit."""
    return {name: (folder / name).read_bytes() for name in ("quantized.safetensors", "allocation.json")}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_killed_anywhere_it_ends_with_the_same_bits(mode, tmp_path, tally):
    images, whole, faults = small.pictures(tmp_path / "images"), tmp_path / "whole", []

    def run(folder: Path, resume: bool = False) -> None:
        small.quantize(folder, images, MODES[mode], resume)

    moments = small.moments(lambda: run(whole), KILLS, seed=0)
    for number, (place, times) in enumerate(moments):
        broken = tmp_path / str(number)
        words = [str(ROOT / "tests/killed.py"), "SIGKILL", place, str(times), str(ROOT / "tests/reliability/small.py")]
        killed = processes.run([*words, str(broken), str(images), *MODES[mode]], tmp_path)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        complete = not (broken / "record.json").exists() or (broken / "quantized.safetensors").exists()
        run(broken, resume=True)
        same = results(broken) == results(whole) and not list(broken.glob(".*.part"))
        faults.append(None if same and complete else f"{place} for the {times}th time")
    tally(f"kill -9: {mode}", faults)
