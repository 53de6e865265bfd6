"""What is asked of the machine at hand."""

import platform
import resource

import pytest
import torch

from attnround import machine
from attnround.machine import memory_kept


def cost() -> int:
    """Pages that the system gives out while large tensors come and go."""
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(3 * 2**22).add_(1)  # 48 MiB: glibc keeps up to 32 by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_large_tensors_take_their_memory_again():
    before = cost()
    with memory_kept():
        cost()
        within = cost()
    assert within < before / 10
    assert within < cost() / 10  # and afterwards all is as it was


@pytest.mark.parametrize(
    ("flags", "vectors"),
    [
        ("fpu sse2 avx avx2", " (AVX2)"),
        ("avx avx2 avx_vnni", " (AVX2 VNNI)"),
        ("avx avx2 avx512f avx512_vnni", " (AVX-512 VNNI)"),
        ("avx avx512f avx512_vnni2", " (AVX-512)"),
        ("sse2", ""),
    ],
)
def test_the_processors_name_has_its_vectors(flags, vectors, monkeypatch):
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"model name": "P-1", "flags": flags})
    monkeypatch.setattr(machine, "num_cores", lambda: 2)
    assert machine.processor() == f"P-1{vectors}, 2 cores"
