"""A table of made-up runs: two models, two widths, three methods, three seeds."""

from itertools import product

import numpy as np

from attnround.study.row import Row
from attnround.study.tables.grid import Cell, Grid

IMAGES = 400
METHODS = {"nearest": 0.80, "AdaRound": 0.90, "Attention Round": 0.98}  # share of images that are right


def make_row(place: dict[str, str], seed: int, **changes) -> Row:
    """A run whose top-1 is that of its images; every seed has its own few mistakes."""
    share = METHODS[place["method"]]
    right = np.arange(IMAGES) < share * IMAGES
    right = right ^ (np.random.default_rng(seed).random(IMAGES) < 0.002)
    top1 = 100 * right.mean()
    metrics = {
        "fp32/top1": 99.0, "quantized/top1": top1, "quantized/agreement": top1,
        "quantized/sqnr_db": 40 * share + 0.1 * seed, "bits/mean": 4.0081, "bits/size_mib": 0.34311,
        "time/allocation_s": 0.5, "time/scales_s": 0.25, "time/reconstruction_s": 10.0 + seed, "time/total_s": 60.0,
    }  # fmt: skip
    given = {
        "config_hash": "-".join([*place.values(), str(seed)]).replace(" ", ""),
        "command": "python src/train.py", "choices": {"model": place["model"]}, "seed": seed, "error": None,
        "metrics": metrics, "correct": {"quantized": right}, "device": "AMD EPYC, 2 cores", "num_threads": 1,
        "git_revision": "abc123", "date": "2026-01-02T03:04:05+00:00",
        "config": {"data": {"num_calibration": 1024}}, "versions": {},
    }  # fmt: skip
    return Row(**given | changes)


COLUMNS = (
    "top1", "drop", "difference", "difference_db", "agreement", "sqnr_db", "mean_bits", "mib", "seconds", "labels",
    "images",
)  # fmt: skip
AXES = {"model": ("resnet18", "small_net"), "weights": ("W4", "W2"), "method": tuple(METHODS)}
GRID = Grid(
    name="rounding",
    caption="Weight rounding, 100 % float activations",
    axes={axis: dict.fromkeys(labels, ()) for axis, labels in AXES.items()},
    seeds=(0, 1, 2),
    compare="method",
    reference="Attention Round",
    columns=COLUMNS,
)


def make_cells() -> list[Cell]:
    """All cells of the grid, every run done."""
    places = [dict(zip(AXES, labels, strict=True)) for labels in product(*AXES.values())]
    return [Cell(place, tuple(make_row(place, seed) for seed in GRID.seeds)) for place in places]
