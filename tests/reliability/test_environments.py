"""The environment of another program, or of little: a run ends as ever, or in one line that says what to do."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.reliability import small

WORDS = (*(each for each in small.WORDS if "num_steps" not in each and "burst" not in each), "quantizer=nearest")
SLURM = {"JOB_ID": "1", "JOB_NAME": "x", "NTASKS": "4", "NTASKS_PER_NODE": "4", "PROCID": "0", "LOCALID": "0"}
LITTLE_SHM = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
READ_ONLY_HOME = 'mkdir home; mount -t tmpfs -o ro tmpfs home; export HOME="$PWD/home"'


@dataclass(frozen=True)
class Try:
    """before: what a shell does first, in mounts of its own where it mounts; after: what follows the command.

    words: more of the run's; line: what its one line says, where it is to end in one.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    after: str = ""
    words: tuple[str, ...] = ()
    line: str = ""


ENVIRONMENTS = {
    "a notebook's backend": Try({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}),
    "SLURM without srun": Try({f"SLURM_{name}": value for name, value in SLURM.items()}),
    "a read-only home": Try(
        before=READ_ONLY_HOME, words=("logger=wandb", "logger.wandb.artifact=true"),
    ),
    "no home": Try(before="unset HOME", words=("logger=wandb", "logger.wandb.artifact=true")),
    "little /dev/shm": Try(before=LITTLE_SHM),
    "/dev/shm too little for workers": Try(
        before=LITTLE_SHM, words=("data.num_workers=2",), line="give data.num_workers=0"
    ),
    "the C locale": Try({"LC_ALL": "C"}),
    "the C locale without UTF-8": Try(
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, line="set PYTHONUTF8=1"
    ),
    "streams in ASCII": Try({"PYTHONIOENCODING": "ascii"}),
    "no standard input": Try(after="<&-"),
    "no standard output": Try(after=">&-"),
    "no streams": Try(after="<&- >&- 2>&-"),
    "a pipe that closes": Try(before="set -o pipefail", after="| head -1"),
    "another folder": Try(before="cd /"),
    "64 open files": Try(before="ulimit -n 64"),
    "little memory": Try(
        before="ulimit -v 12000000", words=("model.preprocessing={input_size: [3, 8000, 8000]}",),
        line="memory ran out",
    ),
}  # fmt: skip


def fault(environment: Try, folder: Path, images: Path) -> str | None:
    """What should not have come of a run there."""
    place = folder / "Ergebnisse, größer als #1"
    run = [*WORDS, f"data.root='{images}'", f"hydra.run.dir='{place}'", *environment.words]
    script = f'{environment.before or ":"}; "$@" {environment.after}'
    shell = ["unshare", "-m"] if "mount" in environment.before else []
    command = [*shell, "bash", "-c", script, "bash", sys.executable, str(ROOT / "src/train.py"), *run]
    variables = os.environ | environment.variables
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)
    if "Traceback" in done.stderr:
        return f"a traceback: {done.stderr.strip().splitlines()[-1]}"
    complete = (place / "record.json").exists()
    if not environment.line:
        return None if done.returncode == 0 and complete else f"{done.returncode}: {done.stderr.strip()[-300:]}"
    said = done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return None if said and environment.line in done.stderr and not complete else f"said {done.stderr[-300:]}"


def can_mount() -> bool:
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_run_ends_well_or_in_a_line(name, tmp_path, tally):
    environment = ENVIRONMENTS[name]
    if "mount" in environment.before and not can_mount():
        pytest.skip("nothing can be mounted here")
    found = fault(environment, tmp_path, small.pictures(tmp_path / "фото, [é]"))
    tally("environments", [found and f"{name}: {found}"])
