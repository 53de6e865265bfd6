"""Runs of a table or sweep as processes of the ordinary entry: what comes of each is its exit status and its record."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from attnround.errors import InputError
from attnround.experiment.sources import sources_of
from attnround.files import CHECKPOINTS, python_path, quoted
from attnround.machine import num_cores
from attnround.study.processes import exit_status, fork
from attnround.study.row import Row, failed_row, recorded_row

BEGUN = "begun"  # lies in a run's folder until its row is written


@dataclass(frozen=True)
class Planned:
    """A run that is wanted: its overrides, its config as written, the option chosen in each group.

    group: the table's or sweep's name.
    """

    group: str
    overrides: tuple[str, ...]
    config_hash: str
    source: dict
    choices: dict[str, str]

    @property
    def command(self) -> str:
        """What a person would type for this run; where else it is logged does not belong to it."""
        words = [each for each in self.overrides if not each.startswith("logger")]
        return f"python src/train.py {shlex.join(words)}"


@dataclass(frozen=True)
class Workers:
    """What runs the processes: `count` at a time on this machine, or submitit's executor of this kind.

    cluster: None, "local" or "slurm"; parameters: of `submitit.AutoExecutor.update_parameters`.
    """

    count: int = 1
    cluster: str | None = None
    parameters: Mapping[str, object] | None = None


def run_all(
    runs: Iterable[Planned],
    folder: Path,
    workers: Workers,
    write: Callable[[Row], None],
    logged: Callable[[Planned], Sequence[str]] = lambda planned: (),
    elsewhere: Callable[[Planned], Row | None] = lambda planned: None,
    claim: Callable[[Planned], bool] = lambda planned: True,
    root: Path = Path(),
) -> None:
    """Run these, each in a folder of its own below `folder`; `write` is given the row of each as soon as it ends.

    A run that fails, or whose process dies, stops no other: its row has the error. A run that had ended when whoever
    waited for it was killed is not run again. logged: more overrides, which say where a run is logged; elsewhere: the
    row of a run that another process has made by now, who shares the work; claim: False of one that another is at work
    on, which is then run behind all others; root: of the project.
    """
    token = f"{socket.gethostname()}-{os.getpid()}"
    with _pool(workers, folder) as start:
        waiting: dict[Future, Planned] = {}

        def submit(planned: Planned, claim: Callable[[Planned], bool]) -> None:
            place = folder / f"{planned.config_hash}-{token}"
            words = command([*planned.overrides, *logged(planned)], place)
            waiting[start(planned, words, place, elsewhere, claim)] = planned

        for planned in runs:
            row = left_behind(planned, folder)
            if row:
                write(row)
                continue
            submit(planned, claim)
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                planned, result = waiting.pop(future), future.result()
                if result is None:  # another was at work on it; if it still is then, it may have lost its machine
                    submit(planned, lambda each: claim(each) or True)
                    continue
                place = folder / f"{planned.config_hash}-{token}"
                write(result if isinstance(result, Row) else outcome(planned, place, result, root))
                tidy(place)


def begin(planned: Planned, place: Path) -> None:
    """Make the folder of a run, and remove those of the same run whose rows were written."""
    for other in place.parent.glob(f"{planned.config_hash}-*"):
        if not (other / BEGUN).exists() or other == place:
            shutil.rmtree(other, ignore_errors=True)
    new = place.with_name(f".{place.name}")  # under its name it is there with its mark, or not at all
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    (new / BEGUN).touch()
    new.rename(place)


def command(overrides: Sequence[str], place: Path) -> list[str]:
    """The ordinary entry with these overrides, writing into `place`."""
    return [sys.executable, "-m", "attnround.cli", "train", *overrides, f"hydra.run.dir={quoted(place.resolve())}"]


def execute(words: Sequence[str], place: str, environment: Mapping[str, str]) -> int:
    """Run a command, what it prints going into files of the folder `place`; its exit status."""
    with Path(place, "stdout.log").open("w") as out, Path(place, "stderr.log").open("w") as err:
        return subprocess.run(words, stdout=out, stderr=err, env=os.environ | environment).returncode


def outcome(planned: Planned, place: Path, status: int | str, root: Path) -> Row:
    """The row of a run that ended. status: its exit status, or a line that says how it was lost."""
    said = None
    if status == 0 and (place / "record.json").exists():
        try:
            return recorded_row(place, planned.source, planned.command)
        except InputError as error:
            said = str(error)
    return failed_row(planned.source, planned.choices, planned.command, said or fault(status, place), root)


def fault(status: int | str, place: Path) -> str:
    """A line that says how a run failed."""
    log = place / "stderr.log"
    if isinstance(status, str):
        return status
    if status < 0:
        return f"its process died ({signal.Signals(-status).name}), for want of memory perhaps: {log}"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    begun = [i for i, line in enumerate(lines) if line.startswith("Traceback ")]
    if begun:  # the error stands behind its frames, which are indented; its message may have several lines
        lines = [line for line in lines[begun[-1] + 1 :] if not line.startswith(" ")][:1] or lines
    return lines[-1].removeprefix("error: ") if lines else f"exit status {status} without a word: {log}"


def left_behind(planned: Planned, folder: Path) -> Row | None:
    """The row of a run that ended after whoever waited for it had been killed; None where there is none.

    Nor is there one where a file that the run read has changed since.
    """
    for place in folder.glob(f"{planned.config_hash}-*"):
        if not (place / BEGUN).exists():
            continue
        try:
            row = recorded_row(place, planned.source, planned.command)
        except InputError:  # killed as well, or still at work
            continue
        if row.sources == sources_of(planned.source):
            tidy(place)
            return row
    return None


def tidy(place: Path) -> None:
    """Once its row is written: remove what only a run that is to go on would need.

    It is not taken up: an unfinished row runs anew, and its seconds count all.
    """
    (place / BEGUN).unlink(missing_ok=True)
    for name in CHECKPOINTS:
        (place / name).unlink(missing_ok=True)
    shutil.rmtree(place / "qat", ignore_errors=True)


@contextlib.contextmanager
def _pool(workers: Workers, folder: Path) -> Iterator[Callable[..., Future]]:
    """Within, a function that starts a run and returns its future; at the end all that runs has ended.

    Where an error or a signal leaves it, what runs on this machine is asked to end.
    """
    running: set[ForkServerProcess] = set()
    environment = {"PYTHONPATH": python_path()}
    if workers.cluster:
        executor, threads = _submitit(workers, folder), ThreadPoolExecutor(1024)  # they only wait

        def start(planned: Planned, words: list[str], place: Path, elsewhere: Callable, claim: Callable) -> Future:
            row = elsewhere(planned)
            if row:
                return threads.submit(lambda: row)
            begin(planned, place)
            return threads.submit(_result, executor.submit(execute, words, str(place), environment))

    else:
        share = max(1, num_cores() // workers.count)
        environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(share))
        threads = ThreadPoolExecutor(workers.count)

        def run(
            planned: Planned, words: list[str], place: Path, elsewhere: Callable, claim: Callable
        ) -> int | Row | None:
            if not claim(planned):  # first, for then a row that was just written is seen
                return None
            row = elsewhere(planned)
            if row:
                return row
            begin(planned, place)
            process = fork(words[1:], place, Path.cwd(), os.environ | environment)
            running.add(process)
            status = exit_status(process)
            running.discard(process)
            return status or 0

        start = partial(threads.submit, run)

    try:
        yield start
    except BaseException:
        for process in list(running):  # from which their threads take them
            process.terminate()
        threads.shutdown(cancel_futures=True)
        raise
    threads.shutdown()


def _submitit(workers: Workers, folder: Path) -> object:
    """Raises InputError where submitit is not installed, or does not take the parameters."""
    try:
        import submitit
    except ImportError as error:
        raise InputError("submitit is not installed: pip install 'attnround[cluster]'") from error
    try:
        executor = submitit.AutoExecutor(folder / "submitit", cluster=workers.cluster)
        executor.update_parameters(**(workers.parameters or {}))
    except (NameError, ValueError, RuntimeError) as error:
        raise InputError(f"submitit, cluster {workers.cluster}: {' '.join(str(error).split())}") from error
    return executor


def _result(job: object) -> int | str:
    """The exit status of a command that ran as a job of submitit, or a line that says how the job was lost."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        return job.result()
    except (FailedJobError, UncompletedJobError):
        return f"its process died, for want of memory perhaps: {job.paths.stderr}"
