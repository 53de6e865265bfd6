"""Processes beside this one that share its work, each on a device of its own: started, watched and ended.

    with crew("gpu", 4, work, *arguments): ...      three other processes call work(*arguments) meanwhile

Together they are a group of torch.distributed, which Lightning's strategy makes: gloo on CPUs, nccl on GPUs. What they
say is lost; what one of them fails of ends all, in a line.
"""

import contextlib
import functools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from lightning_fabric.strategies import DDPStrategy

from attnround.errors import InputError, reason
from attnround.ranks import Ranks, joined

WORK, READY, FAILED, LOG = "work.pt", "{}.ready", "{}.failed", "{}.log"  # files of the folder that they share
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
GRACE_S = 10  # for this process to notice by itself that another has ended


@contextlib.contextmanager
def crew(
    accelerator: str, size: int, work: Callable[..., object], *arguments: object, hint: str = ""
) -> Iterator[None]:
    """Within, `size` processes share the work: this one, and others that call `work` with copies of the arguments.

    hint: what to do where one of them is killed. Raises InputError where another fails, with its line, or is killed.
    """
    if size == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="attnround-") as place, contextlib.ExitStack() as ends:
        folder, port, num_threads = Path(place), find_free_network_port(), torch.get_num_threads()
        _write(folder, work, arguments)
        share = max(1, num_threads // size) if accelerator == "cpu" else num_threads
        others = [_start(folder, rank, accelerator, size, port, share) for rank in range(1, size)]
        ends.callback(_end, others)
        failure = functools.partial(_failure, folder, others, hint)
        try:
            _wait_until_ready(folder, size, failure)
            ends.enter_context(_watched(folder, failure))
            torch.set_num_threads(share)
            ends.callback(torch.set_num_threads, num_threads)
            with joined(_connect(accelerator, 0, size, port)):
                yield
            for process in others:  # which clear up
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)
        except RuntimeError as error:  # as torch says that another process has gone
            deadline = time.monotonic() + GRACE_S
            while (found := failure()) is None and time.monotonic() < deadline:
                time.sleep(0.1)
            if found is None:
                raise
            raise InputError(found) from error
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            for name in ADDRESS:  # which Lightning set
                os.environ.pop(name, None)


def _write(folder: Path, work: Callable[..., object], arguments: Sequence[object]) -> None:
    """Raise InputError where an argument is of a kind that cannot go to another process."""
    try:
        torch.save((work, arguments), folder / WORK)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise InputError(
            f"this run cannot go to other processes ({reason(error)}): define what is your own at the top of a module, "
            "or take one device"
        ) from error


class _Member(ClusterEnvironment):
    """Number `rank` of `size` processes of this machine, which meet at a port."""

    creates_processes_externally = True
    main_address = "127.0.0.1"

    def __init__(self, rank: int, size: int, port: int):
        self.rank, self.size, self.port = rank, size, port

    @property
    def main_port(self) -> int:
        return self.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.size

    def set_world_size(self, size: int) -> None: ...

    def global_rank(self) -> int:
        return self.rank

    def set_global_rank(self, rank: int) -> None: ...

    def local_rank(self) -> int:
        return self.rank

    def node_rank(self) -> int:
        return 0


def _connect(accelerator: str, rank: int, size: int, port: int) -> Ranks:
    fabric = Fabric(
        accelerator=accelerator, devices=size, strategy=DDPStrategy(cluster_environment=_Member(rank, size, port))
    )
    fabric.launch()
    return Ranks(rank, size, str(fabric.device))


def _start(
    folder: Path, rank: int, accelerator: str, size: int, port: int, num_threads: int
) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join(each for each in sys.path if each)
    words = [sys.executable, "-m", __name__, str(folder), str(rank), accelerator, str(size), str(port)]
    with (folder / LOG.format(rank)).open("wb") as log:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(num_threads)},
        )  # fmt: skip


def _end(others: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in others:
        process.kill()
        process.wait()


def _wait_until_ready(folder: Path, size: int, failure: Callable[[], str | None]) -> None:
    """Raise InputError where another process ends before it has come so far that the group can be made."""
    while not all((folder / READY.format(rank)).exists() for rank in range(1, size)):
        found = failure()
        if found:
            raise InputError(found)
        time.sleep(0.05)


@contextlib.contextmanager
def _watched(folder: Path, failure: Callable[[], str | None]) -> Iterator[None]:
    """Within, another process that fails ends this one, where it has not noticed: on GPUs it would wait for it."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            found = failure()
            if found and not done.wait(2 * GRACE_S):
                print(f"error: {found}", file=sys.stderr, flush=True)
                shutil.rmtree(folder, ignore_errors=True)
                os._exit(1)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def _failure(folder: Path, others: Sequence[subprocess.Popen[bytes]], hint: str) -> str | None:
    """A line on the first of the other processes that has failed, None where none has."""
    for rank, process in enumerate(others, start=1):
        status = process.poll()
        if status:
            said = folder / FAILED.format(rank)
            if said.exists():
                return said.read_text()
            how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            lines = (folder / LOG.format(rank)).read_text(errors="replace").strip().splitlines()
            last = f" ({lines[-1]})" if lines and status > 0 else ""
            return f"process {rank + 1} of {len(others) + 1} {how}{last}{hint and f': {hint}'}"
    return None


def _follow(parent: int, folder: Path) -> None:
    """End this process as soon as the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def main(place: str, rank: str, accelerator: str, size: str, port: str) -> None:
    """What one of the other processes does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends all
    folder, parent = Path(place), os.getppid()
    threading.Thread(target=_follow, args=(parent, folder), daemon=True).start()
    try:
        work, arguments = torch.load(folder / WORK, weights_only=False, mmap=True)
        (folder / READY.format(rank)).touch()
        with joined(_connect(accelerator, int(rank), int(size), int(port))):
            work(*arguments)
    except InputError as error:
        (folder / FAILED.format(rank)).write_text(str(error))
        sys.exit(1)
    finally:
        if os.getppid() != parent:  # nobody else removes it
            shutil.rmtree(folder, ignore_errors=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
