"""Damaged and foreign files: refused in a line, or read with nothing changed."""

import pytest

from tests.reliability.damage import verdicts
from tests.reliability.kinds import SLOW, kinds

KINDS = kinds()


@pytest.mark.parametrize("name", [name for name in KINDS if name not in SLOW])
def test_a_few_damaged_files_of_each_kind(name, tmp_path):
    faults = [(each.damage, each.fault) for each in verdicts(KINDS[name](), tmp_path, seed=0, count=25) if each.fault]
    assert faults == []


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files(name, tmp_path, tally):
    found = verdicts(KINDS[name](), tmp_path, seed=1, count=60 if name in SLOW else 250)
    tally(f"damaged: {name}", (each.fault and f"{each.damage}: {each.fault}" for each in found))
