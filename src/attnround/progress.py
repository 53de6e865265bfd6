"""Progress bars. Where the output is not a terminal there is no bar, only what the stages print."""

import contextlib
import sys
from collections.abc import Iterator
from contextvars import ContextVar

from tqdm.auto import tqdm

_SILENT = ContextVar("silent", default=False)


@contextlib.contextmanager
def silent(quiet: bool = True) -> Iterator[None]:
    """Within, no bar is shown."""
    token = _SILENT.set(quiet)
    try:
        yield
    finally:
        _SILENT.reset(token)


def bar(total: int, description: str, unit: str, shown: bool = True) -> tqdm:
    """A bar that goes when it is done, on standard error or in a notebook; silent where that is neither."""
    seen = "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())  # None: it was closed
    hidden = _SILENT.get() or not (shown and seen)
    return tqdm(total=total, desc=description, unit=unit, leave=False, dynamic_ncols=True, disable=hidden)
