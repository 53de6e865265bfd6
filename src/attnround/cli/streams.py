"""Standard streams as the entries find them: nobody may read them any more, as in `| head -1`, and their encoding may
lack letters of a folder's name. The work goes on.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class Unheard:
    """A stream whose pipe may be closed: from then on it writes to nowhere. Letters that it lacks are escaped."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._to_nowhere():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._to_nowhere():
            self._stream.flush()

    @contextlib.contextmanager
    def _to_nowhere(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # what is still in its buffer goes to nowhere too, when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Within, a standard stream whose pipe is closed stops nothing; one that is closed from the start is None."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, each and Unheard(each)) for each in before)
    try:
        yield
    finally:
        for each in filter(None, (sys.stdout, sys.stderr)):
            each.flush()  # here a closed pipe stops nothing; as Python ends it would
        sys.stdout, sys.stderr = before
