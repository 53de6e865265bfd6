import errno

import pytest
from omegaconf import OmegaConf

from attnround.cli.exhausted import exhausted

CONFIG = OmegaConf.create({"data": {"batch_size": 64, "num_calibration": None}, "reconstruction": {"batch_size": 32}})
ON_A_CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. can't allocate memory: you tried to allocate 4194304000 bytes."
)
ERRORS = {
    "memory": (
        RuntimeError(ON_A_CPU),
        "memory ran out: 4000 MiB more were asked for: give less of data.batch_size=64, reconstruction.batch_size=32",
    ),
    "a GPU's": (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), "2.00 GiB more were asked for"),
    "Python's": (MemoryError(), "memory ran out: give less of data.batch_size=64"),
    "shared memory": (
        RuntimeError("unable to allocate shared memory(shm) for file </torch_8_1_0>: No space left on device (28)"),
        "no room in /dev/shm: give data.num_workers=0",
    ),
    "a dead worker": (RuntimeError("DataLoader worker is killed by signal: Bus error."), "give data.num_workers=0"),
    "open files": (OSError(errno.EMFILE, "Too many open files"), "allow more by `ulimit -n 1024`"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_what_there_is_too_little_of_and_what_to_do(what):
    error, line = ERRORS[what]
    assert line in (exhausted(error, CONFIG) or "")
    wrapped = ValueError("of a library")
    wrapped.__cause__ = error
    assert line in (exhausted(wrapped, CONFIG) or "")


def test_another_error_is_none_of_these():
    assert exhausted(RuntimeError("shapes do not fit"), CONFIG) is None
