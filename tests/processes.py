"""Runs of the entries in processes that are forked from one which has imported the libraries.

What a test sees is what it would see of `python src/train.py ...`: an exit status, two streams, files. Only the seconds
that the imports take are spent once for all tests of a pytest process.
"""

import functools
import multiprocessing.forkserver
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

from attnround.study.processes import LIBRARIES, exit_status, fork

ROOT = Path(__file__).resolve().parents[1]
# Which many runs of tests import, and rows of tables do not, or but once each; and the project itself.
LIBRARIES.extend(["networkx", "wandb", "tests.warm"])
HANGS = 1800  # seconds, on however busy a machine


def run(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` gives for a script of Python and its arguments. environment: None: this process's own."""
    _start()
    with tempfile.TemporaryDirectory() as streams:
        process = fork(command, Path(streams), cwd, environment or os.environ)
        status = exit_status(process, HANGS)
        if status is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, HANGS)
        out, err = (Path(streams, f"{name}.log").read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(command, status, out, err)


@functools.cache
def _start() -> None:
    """Start the process that runs are forked from; it finds the project and the tests wherever pytest was started."""
    paths = os.pathsep.join(map(str, (ROOT / "src", ROOT)))
    multiprocessing.set_forkserver_preload(LIBRARIES)
    with mock.patch.dict(os.environ, PYTHONPATH=paths):
        multiprocessing.forkserver.ensure_running()


def killed(place: str, times: int, command: Sequence[str], cwd: Path) -> None:
    """Run a script until this function has returned so many times, see tests/killed.py, and see that it died."""
    done = run([str(ROOT / "tests/killed.py"), "SIGKILL", place, str(times), *command], cwd)
    assert done.returncode == -signal.SIGKILL, done.stderr


def run_outside(words: list[str | Path], cwd: Path) -> subprocess.CompletedProcess:
    """A command with an environment in which nothing names the checkout."""
    outside = {
        key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("ATTNROUND_")
    }
    return subprocess.run(list(map(str, words)), cwd=cwd, env=outside, capture_output=True, text=True)
