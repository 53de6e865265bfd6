"""One architecture of every file of timm, as results/families.csv has them."""

import csv

import pytest
from benchmarks.families import check
from tests.conftest import ROOT

from attnround.errors import InputError

with (ROOT / "results/families.csv").open() as file:
    ROWS = {row["architecture"]: row["outcome"] for row in csv.DictReader(file)}


def test_what_does_not_work_is_refused_and_little_of_it():
    assert len(ROWS) >= 95
    assert sum(outcome == "works" for outcome in ROWS.values()) >= 93
    assert not [name for name, outcome in ROWS.items() if outcome.startswith("crashes")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_an_architecture_does_what_the_table_says(name):
    if ROWS[name] == "works":
        assert check(name)["layers"]
    else:
        with pytest.raises(InputError) as caught:
            check(name)
        assert ROWS[name] == f"refused: {caught.value}"
