from attnround.results.pareto import lines_of, main
from attnround.results.table import csv_text


def row(bits: str, budget: float, seed: int, size: float, top1: float) -> dict:
    return {
        "model": "net", "bits": bits, "weight_bits": budget, "seed": seed, "bits/size_mib": size, "fp32/top1": 95.0,
        "quantized/top1": top1, "quantized/sqnr_db": top1 / 4,
    }  # fmt: skip


ROWS = [
    row("mixed", 4, 0, 0.4, 94),
    row("mixed", 4, 1, 0.4, 93),
    row("mixed", 3, 0, 0.3, 92),
    row("random", 3, 0, 0.3, 80),
]


def test_a_line_an_allocator_ascending_in_size_with_all_seeds():
    lines = lines_of(ROWS, "quantized/top1")
    assert lines == {"mixed": [(0.3, [92.0]), (0.4, [94.0, 93.0])], "random": [(0.3, [80.0])]}


def test_a_picture_a_model_and_metric(tmp_path):
    (tmp_path / "rows.csv").write_text(csv_text(ROWS))
    main(str(tmp_path / "rows.csv"), str(tmp_path / "pareto"))
    assert {each.name for each in tmp_path.glob("*.png")} == {"pareto_net.png", "pareto_net_sqnr.png"}
