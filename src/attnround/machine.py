"""The machine at hand: its processor, its cores, this process's memory; and torch as a fresh process has it."""

import contextlib
import ctypes
import os
import platform
import random
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
WIDTHS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX"}  # flag of Linux: name, the widest first
LARGEST = 2**27  # bytes of a tensor that is kept


def processor() -> str:
    """The processor's name with its instructions for vectors, and how many cores this process may use."""
    about = _cpuinfo()
    name, vectors = about.get("model name") or platform.processor() or platform.machine(), _vectors(about)
    return f"{name}{f' ({vectors})' if vectors else ''}, {num_cores()} cores"


def _vectors(about: dict[str, str]) -> str:
    """The widest instructions for vectors, and whether products of bytes have some: what one name has or has not.

    Sums of floats come in another order with other ones, and 8-bit layers run several times faster with VNNI. Empty
    where the system does not say, as on ARM.
    """
    flags = set(about.get("flags", "").split())
    widest = next((name for flag, name in WIDTHS.items() if flag in flags), "")
    return f"{widest} VNNI" if flags & {"avx512_vnni", "avx_vnni"} else widest


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first core."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_mib() -> float:
    """Peak resident memory of this process in MiB.

    On Linux from /proc: what getrusage says includes the memory of whoever started the process.
    """
    try:
        line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        pass
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


@contextlib.contextmanager
def as_usual() -> Iterator[None]:
    """Within, torch is as a fresh process has it, whatever the caller set; global generators' states are given back.

    Autocast, another default type, and inference mode would change results or bar gradients.
    """
    import torch  # what reads results alone goes without

    default, drawn = torch.get_default_dtype(), random.getstate()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            torch.random.fork_rng(),
        ):
            yield
    finally:
        torch.set_default_dtype(default)
        random.setstate(drawn)


@contextlib.contextmanager
def memory_kept() -> Iterator[None]:
    """Within, the memory of large tensors that are freed stays with the process, for the next ones; with glibc alone.

    Otherwise it goes back to the system, which clears every page before it gives it out again: of a forward pass of
    MobileNetV2 at 224 pixels and 64 images that takes three quarters of the time. Tensors above `LARGEST`, as second
    moments of thousands of inputs are, have memory of their own: few come and go, and none fits into the holes that
    smaller ones leave.
    """
    libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if libc is None:
        yield
        return
    libc.malloc_trim(0)  # of what came before
    libc.mallopt(MMAP_THRESHOLD, LARGEST)
    libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST - 1)
    try:
        yield
    finally:
        libc.mallopt(MMAP_THRESHOLD, 2**25)  # what they come to by themselves, in a process that frees such tensors
        libc.mallopt(TRIM_THRESHOLD, 2**26)
        libc.malloc_trim(0)
