"""What a machine has too little of, in a line that says what to make smaller: memory, shared memory, open files."""

import errno
import re
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from attnround.errors import reason

MEMORY = r"can't allocate memory|out of memory|bad_alloc|Cannot allocate memory|Unable to allocate"
SHARED = r"shared memory|Bus error|/torch_\d+_"  # of the latter a worker dies that finds no room in /dev/shm
FILES = r"Too many open files|ancdata"  # which arrive as nothing, where a worker sends them
AMOUNT = r"(?:allocate) ([\d.]+ ?(?:bytes|[KMGTP]iB))"  # bytes: of torch on a CPU
SMALLER = ("data.batch_size", "reconstruction.batch_size", "batch_size", "data.num_calibration")


def exhausted(error: BaseException, cfg: DictConfig) -> str | None:
    """The line, where an error is of that kind; None where it is not."""
    chain = list(_causes(error))
    said = " ".join(map(str, chain))
    if any(isinstance(each, OSError) and each.errno == errno.EMFILE for each in chain) or re.search(FILES, said):
        return f"{reason(chain[-1])}: allow more by `ulimit -n 1024`, or give data.num_workers=0"
    if re.search(SHARED, said):
        return f"the processes that prepare images find no room in /dev/shm: give data.num_workers=0 ({reason(error)})"
    if any(isinstance(each, MemoryError) for each in chain) or re.search(MEMORY, said):
        asked = re.search(AMOUNT, said)
        there = [name for name in SMALLER if OmegaConf.select(cfg, name, default=None) is not None]
        ways = ", ".join(f"{name}={OmegaConf.select(cfg, name)}" for name in there)
        more = f": {_readable(asked[1])} more were asked for" if asked else ""
        return f"memory ran out{more}: give less of {ways or 'the images'}, or free some"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _readable(amount: str) -> str:
    """An amount of memory, in MiB where it comes in bytes.

    >>> _readable("4194304000 bytes"), _readable("2.00 GiB")
    ('4000 MiB', '2.00 GiB')
    """
    number, _, unit = amount.partition(" ")
    return f"{float(number) / 2**20:.0f} MiB" if unit == "bytes" else amount
