import csv
import json
import os
import time

import pytest

from attnround.cli.summary import in_words, summarise, told
from attnround.study.gather import METRICS


def record(seed: int, quantizer: str = "gptq", bit_width: int = 4, top1: float = 90.0, **more: object) -> dict:
    options = {"gptq": {"damp": 0.01}, "nearest": {}}[quantizer]
    config = {"seed": seed, "model": {"name": "net"}, "bits": {"bit_width": bit_width}, "data": {"seed": seed}}
    about = {"config_hash": "", "git_revision": "", "versions": {"torch": ""}, "device": "cpu", "processor": ""}
    choices = {"model": "timm", "quantizer": quantizer, "bits": "uniform", "experiment": None}
    metrics = dict.fromkeys(METRICS, 1.0) | {"quantized/top1": top1, "quantized/sqnr_db": "Infinity"}
    config |= {"quantizer": options | more, "paths": {"root": str(seed)}}
    return about | {
        "choices": choices, "config": config, "seed": seed, "metrics": metrics, "num_threads": 1, "date": "",
    }  # fmt: skip


def labels(records: list[dict]) -> list[str]:
    return [in_words(each) for each in told(records)]


def test_runs_are_told_apart_by_what_differs_and_not_by_the_seed():
    assert labels([record(0), record(1)]) == ["all", "all"]
    assert labels([record(0), record(0, "nearest")]) == ["quantizer=gptq", "quantizer=nearest"]
    assert labels([record(0), record(0, bit_width=3)]) == ["bits.bit_width=4", "bits.bit_width=3"]
    assert labels([record(0), record(0, damp=0.1)]) == ["quantizer.damp=0.01", "quantizer.damp=0.1"]


@pytest.fixture
def multirun(tmp_path):
    runs = [record(0, top1=90.0), record(1, top1=91.0), record(0, "nearest", top1=80.0)]
    for number, each in zip((0, 10, 2), runs, strict=True):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "record.json").write_text(json.dumps(each))
    (tmp_path / "3").mkdir()  # a job that failed, where an earlier multirun has left a record
    (tmp_path / "3/record.json").write_text(json.dumps(record(0, top1=10.0)))
    return tmp_path


def test_a_multirun_ends_with_a_table_and_a_csv(multirun, capsys):
    os.utime(multirun / "3/record.json", (0, 0))
    summarise(multirun, time.time())
    lines = capsys.readouterr().out.strip("\n").splitlines()
    assert lines[0].split("  ")[-1].strip() == "seconds"
    assert lines[1].startswith("quantizer=gptq        2  90.50 ± 0.71")
    assert lines[2].startswith("quantizer=nearest     1         80.00")
    assert lines[-1].endswith("summary.csv")
    with (multirun / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["quantizer"], row["quantized/top1"]) for row in rows] == [
        ("0", "gptq", "90"), ("2", "nearest", "80"), ("10", "gptq", "91"),
    ]  # fmt: skip


def test_the_csv_has_what_was_varied(multirun):
    (multirun / "2/record.json").write_text(json.dumps(record(0, damp=0.1)))
    summarise(multirun, 0.0)
    with (multirun / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["run"]: row["quantizer.damp"] for row in rows} == {"0": "0.01", "2": "0.1", "3": "0.01", "10": "0.01"}


def test_of_runs_that_all_failed_nothing_is_said(tmp_path, capsys):
    summarise(tmp_path, 0)
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())
