"""Python programs as processes that are forked from one which has imported the libraries.

What comes of a program is what comes of `python <program>`: an exit status, two streams, files. Only the seconds that
the imports take, a third of a short run, are spent once for all.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

LIBRARIES = [
    "hydra.main", "matplotlib.pyplot", "pytorch_lightning", "scipy.optimize", "timm", "torch._dynamo", "torch.export",
    "torchvision",
]  # fmt: skip

# The exit status of a process can be read once, and whoever starts a process reads that of all that have ended: two
# threads that read it at a time would leave one of them without.
_STATUSES = threading.Lock()


def fork(words: Sequence[str], place: Path, cwd: Path, environment: Mapping[str, str]) -> ForkServerProcess:
    """Start a program, `-m module` or a script, with its arguments; its stdout.log and stderr.log are in `place`.

    environment: all of it.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(LIBRARIES)
    process = server.Process(target=_run, args=(list(words), str(place), str(cwd), dict(environment)))
    with _STATUSES:
        process.start()
    return process


def exit_status(process: ForkServerProcess, timeout: float | None = None) -> int | None:
    """Wait until a process has ended; None where it goes on after `timeout` seconds."""
    wait([process.sentinel], timeout)
    with _STATUSES:
        process.join(0)
        return process.exitcode


def _run(words: list[str], place: str, cwd: str, environment: Mapping[str, str]) -> None:
    """The work of the process that was forked."""
    atexit._clear()  # what the libraries clean up at the end is for the process that imported them to do
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate(("stdout.log", "stderr.log"), start=1):
        os.dup2(os.open(Path(place, name), os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    os.chdir(cwd)
    with contextlib.suppress(KeyError, ModuleNotFoundError):
        import torch

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # it was imported with those of another
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            sys.path[0] = str(Path(words[0]).parent)
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # what the program registered; a forked process leaves it out
