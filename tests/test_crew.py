"""Processes that share a run: two on the CPU, of gloo."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from attnround import ranks
from attnround.crew import crew
from attnround.errors import InputError
from tests.conftest import ROOT

slow = pytest.mark.slow


def total() -> float:
    return ranks.summed({"own": torch.tensor(1.0 + ranks.rank())})["own"].item()


def refused() -> None:
    raise InputError("an image is broken")


def gone() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@slow
def test_they_come_to_one_sum_and_end_with_it():
    num_threads, before = torch.get_num_threads(), dict(os.environ)
    for _ in range(2):  # the first one leaves nothing behind
        with crew("cpu", 2, total):
            assert (ranks.rank(), ranks.num_ranks()) == (0, 2)
            assert total() == 3
        assert (ranks.rank(), ranks.num_ranks()) == (0, 1)
    assert not torch.distributed.is_initialized()
    assert torch.get_num_threads() == num_threads
    assert dict(os.environ) == before
    assert not children(os.getpid())


@slow
@pytest.mark.parametrize(
    ("work", "line"),
    [(refused, "^an image is broken$"), (gone, "^process 2 of 2 was ended by SIGKILL: try again$")],
)
def test_what_one_fails_of_ends_all(work, line):
    with pytest.raises(InputError, match=line), crew("cpu", 2, work, hint="try again"):
        total()


def test_what_cannot_go_to_another_process_is_said():
    line = r"cannot go to other processes .*at the top of a module"
    with pytest.raises(InputError, match=line), crew("cpu", 2, total, lambda: None):
        pass


def test_one_starts_no_other():
    with crew("cpu", 1, gone):
        assert total() == 1


@pytest.fixture
def own(tmp_path, image_folder):
    """A small run with quantized inputs and mixed bits, on image files of which one is broken."""
    images = shutil.copytree(image_folder, tmp_path / "images")
    (images / "val/7/broken.png").write_bytes(b"no image")
    return [
        "model=timm", "model.name=test_resnet", "model.random_init=true", "activation=mse", "bits=mixed",
        "data=image_folder", f"data.root={images}", f"data.calibration={images / 'calibration'}",
        "model.num_classes=10", "data.num_calibration=6", "data.batch_size=2", "data.num_workers=1",
        "quantizer.num_steps=20", "reconstruction.batch_size=2", "reconstruction.num_positions=4", "logger=[]",
    ]  # fmt: skip


@pytest.fixture
def temporary(monkeypatch):
    """Where processes write what is temporary, of a short name, as sockets lie there."""
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.setenv("TMPDIR", place)
        yield Path(place)


def start(words: list[str], cwd: Path) -> subprocess.Popen:
    """With one thread, so that sums come in the same order however many processes there are."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "src/train.py"), *words], cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate()
    return process.returncode, out, err


def children(pid: int) -> list[int]:
    """The processes of ours that another one has started."""
    found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [each for each in found if b"attnround.crew" in Path(f"/proc/{each}/cmdline").read_bytes()]


def until(condition) -> None:
    while not condition():
        time.sleep(0.02)


def outcome(folder: Path) -> tuple:
    record = json.loads((folder / "record.json").read_text())
    times = ("time/", "memory/")
    metrics = {name: value for name, value in record["metrics"].items() if not name.startswith(times)}
    return metrics, record["deployed"]["fingerprint"], record["evaluation"], record["allocation"]


@slow
def test_two_processes_give_one_ones_run(own, tmp_path):
    """The same integers, the same metrics to the bit, and what there is to say of files that others opened."""
    for name, more in (("one", ()), ("two", ("trainer.devices=2",))):
        status, out, err = ended(start([*own, *more, f"hydra.run.dir={name}"], tmp_path))
        assert status == 0, err
        assert ("2 processes share the images" in out) == (name == "two")
        assert out.count("could not be read") + err.count("could not be read") == 1, out + err
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")


@slow
@pytest.mark.parametrize("first", [False, True], ids=["another", "the first"])
def test_killed_it_ends_as_a_whole_and_goes_on_to_the_same_bits(own, tmp_path, temporary, first):
    words = [*own, "trainer.devices=2"]
    assert ended(start([*words, "hydra.run.dir=whole"], tmp_path))[0] == 0
    process = start([*words, "hydra.run.dir=broken"], tmp_path)
    until(lambda: (tmp_path / "broken/reconstruction.pt").exists())
    (other,) = children(process.pid)
    os.kill(process.pid if first else other, signal.SIGKILL)
    status, _, err = ended(process)
    until(lambda: not Path(f"/proc/{other}").exists())
    assert not list(temporary.glob("attnround-*/work.pt"))
    if not first:
        assert status == 1
        line = (
            f"error: process 2 of 2 was ended by SIGKILL: resume={tmp_path}/broken goes on from the last finished unit"
        )
        assert err.splitlines()[-1] == line
        assert "Traceback" not in err
    assert not (tmp_path / "broken/record.json").exists()
    status, out, err = ended(start([*words, "resume=broken"], tmp_path))
    assert status == 0, err
    assert "finished units" in out
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")
