"""What is asked of the machine at hand."""

import platform
import resource

import pytest
import torch

from attnround.machine import memory_kept


def cost() -> int:
    """Pages that the system gives out while large tensors come and go."""
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(2**24).add_(1)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_large_tensors_take_their_memory_again():
    before = cost()
    with memory_kept():
        cost()
        within = cost()
    assert within < before / 10
    assert within < cost() / 10  # and afterwards all is as it was
