"""An architecture of every family of timm, torchvision and transformers, as results/families.csv has them."""

import csv
from collections import Counter

import pytest
from benchmarks.families import check
from tests.conftest import ROOT

from attnround.errors import InputError

with (ROOT / "results/families.csv").open() as file:
    ROWS = {(row["collection"], row["architecture"]): row["outcome"] for row in csv.DictReader(file)}
LEAST = {"timm": 98, "torchvision": 22, "transformers": 34}  # that work


def test_what_does_not_work_is_refused_and_little_of_it():
    works = Counter(collection for (collection, _), outcome in ROWS.items() if outcome == "works")
    assert {name: works[name] >= least for name, least in LEAST.items()} == dict.fromkeys(LEAST, True)
    assert not [name for name, outcome in ROWS.items() if outcome.startswith("crashes")]


@pytest.mark.slow
@pytest.mark.parametrize(("collection", "name"), ROWS)
def test_an_architecture_does_what_the_table_says(collection, name):
    outcome = ROWS[collection, name]
    if outcome == "works":
        assert check(collection, name)["layers"]
    else:
        with pytest.raises(InputError) as caught:
            check(collection, name)
        assert outcome == f"refused: {caught.value}"
