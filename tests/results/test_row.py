import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnround.errors import InputError
from attnround.results.record import config_hash
from attnround.results.row import Row, pack, read_row, read_rows, unpack, write_row


def row(seed: int = 0, **more: object) -> Row:
    config = {"seed": seed, "bits": {"bit_width": 2}}
    given = {
        "config_hash": config_hash(config), "command": f"python src/train.py seed={seed}", "choices": {}, "seed": seed,
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
