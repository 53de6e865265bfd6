"""Ctrl-C and SIGTERM: one line that says how to go on, and the exit status that a shell expects, 130 or 143."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from attnround.files import has_checkpoint

ENDING = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """The process is asked to end. As no Exception, it is nobody's own failure on its way up.

    Nor is it a KeyboardInterrupt, at which Lightning exits by itself, with status 1.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Within, the first signal raises `Stopped`; the next one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:  # forked, a worker that loads images: whoever made it ends it
            raise KeyboardInterrupt
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def how_to_go_on(entry: str, folder: Path | None, several: bool) -> str:
    """What is said after a run was stopped; folder: of a single run; several: it was one of a multirun."""
    if entry in ("tables", "sweep"):
        return "the same command goes on with the rows that are missing"
    if entry != "train":
        return "nothing was written; the same command begins anew"
    if several:
        return "each run that had begun to learn goes on by the same options and resume=<its folder>"
    if folder and has_checkpoint(folder):
        return f"go on with the same options and resume={folder}"
    return "nothing was learned yet; the same command begins anew"
