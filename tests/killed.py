"""A run that is killed, or asked to end, at a moment which no clock decides.

python tests/killed.py SIGKILL attnround.reconstruction.Checkpoint.save 3 src/train.py ...    when three units are saved
"""

import os
import runpy
import signal
import sys
from pkgutil import resolve_name


def die_after(number: int, place: str, times: int) -> None:
    """A signal to this process, as the function of this name returns for the n-th time."""
    owner, name = place.rsplit(".", 1)
    owner, calls = resolve_name(owner), iter(range(1, times))
    function = getattr(owner, name)

    def counted(*args, **more):
        result = function(*args, **more)
        if next(calls, None) is None:
            os.kill(os.getpid(), number)
        return result

    setattr(owner, name, counted)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(sys.argv[4]))
    die_after(signal.Signals[sys.argv[1]], sys.argv[2], int(sys.argv[3]))
    sys.argv = sys.argv[4:]
    runpy.run_path(sys.argv[0], run_name="__main__")
