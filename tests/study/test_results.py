import errno
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import ROOT

from attnround.experiment.record import Run, git_revision
from attnround.files import json_floats, json_text, write_atomically
from attnround.machine import peak_mib
from attnround.study.gather import METRICS, line_of
from attnround.table import csv_text, text_table
from attnround.typed import parsed


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_atomically(tmp_path / "record.json", "{}")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "record.json", "another")
    assert [each.name for each in tmp_path.iterdir()] == ["record.json"]
    assert (tmp_path / "record.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "𝄞" * 63])
def test_as_long_a_name_as_a_file_may_have(tmp_path, name):
    write_atomically(tmp_path / name, "text")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [(name, "text")]


def test_a_symbolic_link_stays_one_and_its_file_is_written(tmp_path):
    file, link = tmp_path / "file.json", tmp_path / "link.json"
    file.write_text("before")
    link.symlink_to(file.name)
    write_atomically(link, "after")
    assert link.is_symlink()
    assert file.read_text() == link.read_text() == "after"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    texts = ["a" * 300_000, "b" * 300_000]

    def write(text: str) -> None:
        for _ in range(40):
            write_atomically(tmp_path / "row.json", text)

    with ThreadPoolExecutor(2) as threads:
        writers = [threads.submit(write, text) for text in texts]
        while not all(each.done() for each in writers):
            if (tmp_path / "row.json").exists():
                assert (tmp_path / "row.json").read_text() in texts
        assert [each.result() for each in writers] == [None, None]
    assert [each.name for each in tmp_path.iterdir()] == ["row.json"]


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


WORDS = st.text().filter(lambda text: text not in ("Infinity", "-Infinity", "NaN"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON)
def test_what_json_does_not_have_is_strict_json_and_comes_back(content):
    back = json_floats(json.loads(json_text(content), parse_constant=refuse))
    assert repr(back) == repr(content)  # NaN does not equal itself


@given(JSON.filter(lambda content: "inf" not in repr(content) and "nan" not in repr(content)))
def test_what_json_has_is_written_as_ever(content):
    assert json_text(content, indent=2) == json.dumps(content, indent=2)


def test_a_byte_of_a_files_name_that_is_no_letter_is_escaped(tmp_path):
    name, shown = os.fsdecode(b"br\xe9k.jpg"), "br\\udce9k.jpg"
    assert parsed(json_text({name: [name]})) == {shown: [shown]}
    write_atomically(tmp_path / "it.csv", name)
    assert (tmp_path / "it.csv").read_text() == shown


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_record_with_a_metric_that_is_not_finite_is_read_by_anyone(tmp_path, value):
    metrics = dict.fromkeys(METRICS, 1.0) | {"quantized/sqnr_db": value}
    config = {"task": "quantize", "seed": 0, "paths": {"root": "/"}, "bits": {"bit_width": 4}, "model": {"name": "n"}}
    choices = {"model": "m", "quantizer": "q", "bits": "uniform"}
    run = Run.of(config, config, choices, tmp_path)
    run.write_record(run.record(metrics, device="cpu", num_threads=1))
    record = json.loads((tmp_path / "record.json").read_text(), parse_constant=refuse)
    assert repr(json_floats(record["metrics"])) == repr(metrics)
    assert line_of(record)["quantized/sqnr_db"] == f"{value:g}"


def test_git_revision_marks_changes(tmp_path):
    assert git_revision(tmp_path) == "unknown"

    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("one")
    git("add", ".")
    git("commit", "-m", "one")
    assert len(git_revision(tmp_path)) == 12
    (tmp_path / "file").write_text("two")
    assert git_revision(tmp_path).endswith("+")


def test_columns_line_up_and_nothing_is_a_dash():
    lines = text_table(["", "top-1"], [["fp32", "93.1"], ["attention", None]]).splitlines()
    assert lines == ["           top-1", "fp32        93.1", "attention      -"]


def test_csv_has_a_line_a_row():
    assert csv_text([{"name": "conv1", "shape": [16, 3, 3]}]) == "name,shape\nconv1,16x3x3\n"


def test_results_need_no_torch():
    rooms = "experiment.record, study.gather, experiment.pictures, study.tables.write, study.report.write"
    rooms = ", ".join(f"attnround.{room}" for room in rooms.split(", "))
    code = f"import sys, {rooms}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src", check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="elsewhere getrusage is all there is")
def test_peak_memory_is_this_process_own_and_not_that_of_who_started_it():
    ballast = bytearray(300 * 2**20)
    ballast[::4096] = b"x" * len(ballast[::4096])  # touched, so that it is resident
    code = "from attnround.machine import peak_mib; print(peak_mib())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 < float(done.stdout) < 250
    assert peak_mib() > 300
