import dataclasses
import hashlib
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import ROOT

from attnround.errors import InputError
from attnround.experiment.identity import identity
from attnround.experiment.record import pack, unpack
from attnround.study.row import Row, read_row, read_rows, row_of, write_row
from attnround.study.tables.fill import fill
from attnround.study.tables.formats import FORMATS
from attnround.study.tables.grid import Cell, Grid


def row(seed: int = 0, **more: object) -> Row:
    config = {"seed": seed, "bits": {"bit_width": 2}}
    given = {
        "config_hash": identity(config, {}), "command": f"python src/train.py seed={seed}", "choices": {}, "seed": seed,
        "error": None, "metrics": {"quantized/top1": 90.0}, "correct": {"quantized": np.array([True, False, True])},
        "device": "cpu", "num_threads": 1, "git_revision": "abc", "versions": {}, "date": "2026", "config": config,
    }  # fmt: skip
    return Row(**given | more)


@given(st.lists(st.booleans(), max_size=70))
def test_what_is_packed_is_unpacked(right):
    assert unpack(pack(np.array(right, dtype=bool))).tolist() == right


def test_a_row_comes_back_as_it_was(tmp_path):
    write_row(row(), tmp_path)
    back = read_rows(tmp_path)[row().config_hash]
    assert back.correct["quantized"].tolist() == [True, False, True]
    assert dataclasses.replace(back, correct={}) == dataclasses.replace(row(), correct={})


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_does_not_have_come_back(tmp_path, value):
    metrics = {"quantized/top1": 90.0, "quantized/sqnr_db": value}
    write_row(row(metrics=metrics), tmp_path)
    (path,) = tmp_path.iterdir()
    json.loads(path.read_text(), parse_constant=refuse)
    assert repr(read_row(path).metrics) == repr(metrics)


def test_an_option_may_be_the_word(tmp_path):
    config = {"seed": 0, "name": "NaN"}
    write_row(row(config=config, config_hash=identity(config, {})), tmp_path)
    assert next(iter(read_rows(tmp_path).values())).config == config


def test_a_row_of_a_record_has_numbers():
    metrics = {"quantized/top1": 90.0, "quantized/sqnr_db": "Infinity"}
    names = ("config_hash", "choices", "seed", "num_threads", "date", "device", "git_revision", "versions")
    record = {name: getattr(row(), name) for name in names} | {"metrics": metrics, "processor": "p"}
    record["evaluation"] = {"correct": {}}
    assert row_of(record, row().config, "").metrics["quantized/sqnr_db"] == math.inf


def test_a_row_that_was_written_with_a_bare_infinity_is_still_read(tmp_path):
    write_row(row(), tmp_path)
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    content["metrics"]["quantized/sqnr_db"] = math.inf
    del content["digest"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content | {"digest": digest}))
    assert read_row(path).metrics["quantized/sqnr_db"] == math.inf


def test_committed_rows_are_written_again_to_the_byte(tmp_path):
    for path in sorted((ROOT / "results/rows").glob("*.json"))[::10]:
        write_row(read_row(path), tmp_path)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("values", "shown", "difference"),
    [((math.inf, math.inf), "inf", "+inf"), ((30.0, math.inf), "inf", "+inf"), ((30.0, math.nan), "nan", "-")],
)
def test_a_table_shows_an_infinite_mean_without_a_spread(values, shown, difference):
    axes = {"method": {"a": (), "b": ()}}
    grid = Grid("t", "T", axes, (0, 1), "method", "a", ("sqnr_db", "difference_db"))
    rows = [row(seed, metrics={"quantized/sqnr_db": value}) for seed, value in enumerate(values)]
    plain = [row(seed, metrics={"quantized/sqnr_db": 20.0}) for seed in (0, 1)]
    table = fill(grid, [Cell({"method": "a"}, tuple(plain)), Cell({"method": "b"}, tuple(rows))])
    entries = table.lines[1].entries[2:]
    assert [(entry.shown, entry.bold) for entry in entries] == [(shown, False), (difference, False)]
    assert str(entries[0].fields["sqnr_db_mean"]) == shown
    assert all(form(table) for form in FORMATS.values())


def test_a_failed_row_keeps_its_error(tmp_path):
    write_row(row(error="no memory", metrics={}, correct={}), tmp_path)
    assert next(iter(read_rows(tmp_path).values())).error == "no memory"


def edited(text: str) -> str:
    return text.replace("90.0", "99.0")


def cut_off(text: str) -> str:
    return text[: len(text) // 2]


def of_another_config(text: str) -> str:
    content = json.loads(text)
    content["config"]["seed"] = 7
    return json.dumps(content)


@pytest.mark.parametrize("harm", [edited, cut_off, of_another_config, lambda text: "", lambda text: "[]"])
def test_what_was_harmed_is_refused_by_name(tmp_path, harm):
    for seed in (0, 1):
        write_row(row(seed), tmp_path)
    path = tmp_path / f"{row().config_hash}.json"
    path.write_text(harm(path.read_text()))
    with pytest.raises(InputError, match=f"{path.name}: cut off or edited by hand; remove it"):
        read_rows(tmp_path)
    with pytest.raises((ValueError, TypeError)):
        read_row(path)


def test_only_the_wanted_rows_are_read(tmp_path):
    write_row(row(0), tmp_path)
    write_row(row(1), tmp_path)
    wanted = row(1).config_hash
    assert set(read_rows(tmp_path, [wanted, "not there"])) == {wanted}
