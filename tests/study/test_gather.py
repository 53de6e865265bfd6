import csv
import json
import subprocess
import sys

import pytest

from attnround.errors import InputError
from attnround.study.gather import METRICS, line_of, main


def record(seed: int, quantizer: str, top1: float) -> dict:
    metrics = dict.fromkeys(METRICS, 1.0) | {"fp32/top1": 94.0, "nearest/top1": 80.0, "quantized/top1": top1}
    return {
        "choices": {"model": "m", "quantizer": quantizer, "bits": "uniform"}, "seed": seed, "metrics": metrics,
        "config_hash": f"{quantizer}{seed}", "git_revision": "abc", "versions": {"torch": "2"}, "device": "cpu",
        "processor": "p, 2 cores", "num_threads": 2, "date": "2026-01-01",
        "config": {"bits": {"bit_width": 3}, "model": {"name": "n"}},
    }  # fmt: skip


def test_the_records_below_a_folder_are_lines_in_order(tmp_path):
    for i, (seed, quantizer, top1) in enumerate([(1, "b", 93.0), (0, "b", 92.0), (0, "a", 90.0)]):
        (tmp_path / "runs" / str(i)).mkdir(parents=True)
        (tmp_path / "runs" / str(i) / "record.json").write_text(json.dumps(record(seed, quantizer, top1)))
    main(str(tmp_path / "runs"), str(tmp_path / "lines.csv"))
    with (tmp_path / "lines.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["quantizer"], line["seed"], line["quantized/top1"]) for line in lines] == [
        ("a", "0", "90"),
        ("b", "0", "92"),
        ("b", "1", "93"),
    ]
    assert {line["device"] for line in lines} == {"p, 2 cores"}
    with pytest.raises(InputError, match=r"none holds no record\.json: give the folder of runs"):
        main(str(tmp_path / "none"), str(tmp_path / "lines.csv"))


@pytest.mark.parametrize(
    ("bits", "shown"),
    [
        ({"bit_width": 3}, "3"),
        ({"bit_width": 4, "budget": None}, "4"),
        ({"bit_width": 4, "budget": 2.5}, "2.5"),
        ({"path": "mine.json"}, "3.124"),
        ({"bit_width": 4, "budget": 0.3, "unit": "mib"}, "3.124"),
        ({"budget": 2.5, "unit": "mean_bits"}, "2.5"),
    ],
)
def test_the_bits_of_a_line_are_what_was_asked_for(bits, shown):
    one = record(0, "b", 90.0)
    one["config"]["bits"] = bits
    one["metrics"]["bits/mean"] = 3.1239
    assert str(line_of(one)["weight_bits"]) == shown


@pytest.mark.parametrize(
    ("words", "said"), [([], "give the folder"), (["{here}", "{here}/no/it.csv"], "cannot be written")]
)
def test_what_the_command_cannot_do_is_one_line(tmp_path, words, said):
    (tmp_path / "record.json").write_text(json.dumps(record(0, "b", 90.0)))
    words = [each.format(here=tmp_path) for each in words]
    done = subprocess.run([sys.executable, "-m", "attnround.study.gather", *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
