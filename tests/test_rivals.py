"""The comparison with other projects' code: its page is what its rows give, and its methods exist."""

import ast
import csv

import pytest

from tests.conftest import ROOT


@pytest.fixture
def beside(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import beside_rivals

    return beside_rivals


def test_the_page_has_what_the_rows_give(beside):
    with (ROOT / "results/rivals.csv").open() as file:
        rows = list(csv.DictReader(file))
    text = beside.PAGE.read_text()
    assert beside.with_tables(text, rows) == text
    assert "| attnround attention_round | " in text


def test_every_method_of_a_rival_has_a_function(beside):
    for rival, offered in beside.RIVALS.items():
        if offered.packages:  # which are not installed here
            source = ast.parse((ROOT / f"benchmarks/rivals/with_{rival}.py").read_text())
            assert set(offered.methods) <= {each.name for each in source.body if isinstance(each, ast.FunctionDef)}


@pytest.mark.slow
def test_a_cell_of_our_own(beside):
    place = dict(zip(beside.KEYS, ("resnet18_slim", "W8A8", "attnround", "nearest", 0), strict=True))
    row = beside.run(place)
    assert float(row["sqnr_db"]) > 30
    assert float(row["top1"]) > 93
