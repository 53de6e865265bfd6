import csv
import json

import pytest

from attnround.results.rows import METRICS, main, row_of, spread


def record(seed: int, quantizer: str, top1: float) -> dict:
    metrics = dict.fromkeys(METRICS, 1.0) | {"fp32/top1": 94.0, "nearest/top1": 80.0, "quantized/top1": top1}
    return {
        "choices": {"model": "m", "quantizer": quantizer, "bits": "uniform"}, "seed": seed, "metrics": metrics,
        "config_hash": f"{quantizer}{seed}", "git_revision": "abc", "versions": {"torch": "2"}, "device": "cpu",
        "processor": "p, 2 cores", "num_threads": 2, "date": "2026-01-01",
        "config": {"bits": {"bit_width": 3}, "model": {"name": "n"}},
    }  # fmt: skip


def test_rows_and_their_table(tmp_path):
    for i, (seed, quantizer, top1) in enumerate([(1, "b", 93.0), (0, "b", 92.0), (0, "a", 90.0)]):
        (tmp_path / "runs" / str(i)).mkdir(parents=True)
        (tmp_path / "runs" / str(i) / "record.json").write_text(json.dumps(record(seed, quantizer, top1)))
    main(str(tmp_path / "runs"), str(tmp_path / "table"))
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["quantizer"], row["seed"]) for row in rows] == [("a", "0"), ("b", "0"), ("b", "1")]
    assert {row["device"] for row in rows} == {"p, 2 cores"}
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 5
    assert lines[2].startswith("| m | uniform 3 | nearest | 1 | 80.00 | 14.00 |")
    assert lines[4].startswith("| m | uniform 3 | b | 2 | 92.50 ± 0.71 | 1.50 ± 0.71 |")


def test_objectives_and_activations_are_told_apart(tmp_path):
    plain, block, quantized = (record(0, "b", top1) for top1 in (90.0, 91.0, 89.0))
    block["choices"]["reconstruction"] = "block"
    quantized["choices"]["activation"], quantized["config"]["activation"] = "mse", {"bit_width": 4}
    for i, each in enumerate((plain, block, quantized)):
        (tmp_path / "runs" / str(i)).mkdir(parents=True)
        (tmp_path / "runs" / str(i) / "record.json").write_text(json.dumps(each))
    main(str(tmp_path / "runs"), str(tmp_path / "table"))
    starts = [line.split(" | 1 | ")[0] for line in (tmp_path / "table.md").read_text().splitlines()[2:]]
    assert starts == [
        "| m | uniform 3 | nearest",
        "| m | uniform 3 | b",
        "| m | uniform 3 | b, block",
        "| m | uniform 3, A4 mse | nearest",
        "| m | uniform 3, A4 mse | b",
    ]


def test_spread():
    assert spread([2.0, 4.0]) == "3.00 ± 1.41"
    with pytest.raises(ValueError, match="mean requires"):
        spread([])


@pytest.mark.parametrize(
    ("bits", "shown"),
    [
        ({"bit_width": 3}, "3"),
        ({"bit_width": 4, "budget": None}, "4"),
        ({"bit_width": 4, "budget": 2.5}, "2.5"),
        ({"path": "mine.json"}, "3.124"),
    ],
)
def test_the_bits_of_a_row_are_what_was_asked_for(bits, shown):
    one = record(0, "b", 90.0)
    one["config"]["bits"] = bits
    one["metrics"]["bits/mean"] = 3.1239
    assert str(row_of(one)["weight_bits"]) == shown
