"""Runs of the entries in processes that are forked from one which has imported the libraries.

What a test sees is what it would see of `python src/train.py ...`: an exit status, two streams, files. Only the seconds
that the imports take are spent once for all tests of a pytest process.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

LIBRARIES = [
    "hydra.main", "matplotlib.pyplot", "pytorch_lightning", "scipy.optimize", "timm", "torch._dynamo", "torch.export",
    "torchvision", "wandb",
]  # fmt: skip
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(LIBRARIES)
HANGS = 1800  # seconds, on however busy a machine


def run(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` gives for a script of Python and its arguments. environment: None: this process's own."""
    with tempfile.TemporaryDirectory() as streams:
        process = SERVER.Process(target=_run, args=(command, cwd, Path(streams), dict(environment or os.environ)))
        process.start()
        process.join(HANGS)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(command, HANGS)
        out, err = (Path(streams, name).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(command, process.exitcode, out, err)


def _run(command: Sequence[str], cwd: Path, streams: Path, environment: Mapping[str, str]) -> None:
    """The work of the process that was forked. What it prints goes into stdout and stderr in the folder `streams`."""
    atexit._clear()  # what the libraries clean up at the end is for the process that imported them to do
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, name in enumerate(("stdout", "stderr"), start=1):
        os.dup2(os.open(streams / name, os.O_CREAT | os.O_WRONLY), number)
    sys.argv = list(command)
    sys.path[0] = str(Path(command[0]).parent)
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # what the script registered; a forked process leaves it out


def run_outside(words: list[str | Path], cwd: Path) -> subprocess.CompletedProcess:
    """A command with an environment in which nothing names the checkout."""
    outside = {
        key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("ATTNROUND_")
    }
    return subprocess.run(list(map(str, words)), cwd=cwd, env=outside, capture_output=True, text=True)
