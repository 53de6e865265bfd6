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
        if offered.packages or offered.clone:  # which are not installed here
            source = ast.parse((ROOT / f"benchmarks/rivals/with_{rival}.py").read_text())
            assert set(offered.methods) <= {each.name for each in source.body if isinstance(each, ast.FunctionDef)}


def test_a_clone_is_the_rivals(beside, tmp_path):
    with pytest.raises(SystemExit, match=r"has no quant/block_recon\.py: give the folder of a clone of github"):
        beside.clones_of([f"brecq={tmp_path}"])
    with pytest.raises(SystemExit, match="give brecq=FOLDER or qdrop=FOLDER"):
        beside.clones_of([f"brevitas={tmp_path}"])
    (tmp_path / "quant").mkdir()
    (tmp_path / "quant/block_recon.py").touch()
    assert beside.clones_of([f"brecq={tmp_path}"]) == {"brecq": tmp_path}


@pytest.mark.slow
def test_a_cell_of_our_own(beside):
    place = dict(zip(beside.KEYS, ("resnet18_slim", "W8A8", "attnround", "nearest", 0), strict=True))
    row = beside.run(place)
    assert float(row["sqnr_db"]) > 30
    assert float(row["top1"]) > 93
    assert float(beside.run(place, smoke=True)["sqnr_db"]) > 25
