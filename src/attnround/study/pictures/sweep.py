"""What a sweep found, as a picture: lines over a grid, a cloud over draws."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

from attnround.experiment.pictures import BLUE, ORANGE, draw_lines, save
from attnround.study.sweep import Sweep

LABELS = {
    "quantized/top1": "top-1 %",
    "quantized/agreement": "agreement with FP32, %",
    "quantized/sqnr_db": "SQNR of the logits, dB",
}


def draw_sweep(sweep: Sweep, runs: Sequence[tuple[dict, float]], path: Path) -> None:
    """The metric of some runs, each a point of the sweep and a value, against what was varied. path: .png or .svg."""
    label = LABELS.get(sweep.metric, sweep.metric)
    if sweep.method == "grid":
        _draw_grid(sweep, runs, path, label)
    else:
        _draw_cloud(sweep, runs, path, label)


def lines_of(sweep: Sweep, runs: Sequence[tuple[dict, float]]) -> dict[str, dict[object, list[float]]]:
    """A line for each combination of the parameters after the first: value of the first -> the metric of its seeds."""
    first, *others = sweep.varied
    lines = defaultdict(lambda: defaultdict(list))
    for point, value in runs:
        name = ", ".join(f"{key.split('.')[-1]}={point[key]}" for key in others)
        lines[name][point[first]].append(value)
    return lines


def _draw_grid(sweep: Sweep, runs: Sequence[tuple[dict, float]], path: Path, label: str) -> None:
    x = sweep.varied[0]
    values = sweep.parameters[x]["values"]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    values = sorted(values) if numbers else values
    places = {value: value if numbers else i for i, value in enumerate(values)}
    lines = {
        name: sorted((places[value], each) for value, each in points.items())
        for name, points in lines_of(sweep, runs).items()
    }
    seeds = len(sweep.parameters.get("seed", {}).get("values", [0]))
    spread = f", {seeds} seeds: mean and standard deviation" if seeds > 1 and x != "seed" else ""
    log = numbers and values[0] > 0 and values[-1] >= 10 * values[0]
    ticks = {place: f"{value:g}" if numbers else str(value) for value, place in places.items()}
    draw_lines(lines, path, f"sweep {sweep.name}{spread}", (x, label), ticks=ticks, log=log, joined=numbers)


def _draw_cloud(sweep: Sweep, runs: Sequence[tuple[dict, float]], path: Path, label: str) -> None:
    keys = sweep.varied
    best = (max if sweep.goal == "maximize" else min)(runs, key=lambda run: run[1])
    figure, row = plt.subplots(
        1, len(keys), sharey=True, squeeze=False, figsize=(1 + 3 * len(keys), 3.5), layout="constrained"
    )
    for axes, key in zip(row[0], keys, strict=True):
        categories = sweep.parameters[key].get("values")
        places = [categories.index(point[key]) if categories else point[key] for point, _ in runs]
        axes.plot(places, [value for _, value in runs], "o", color=BLUE, markersize=5)
        axes.plot(places[runs.index(best)], best[1], "s", color=ORANGE, markersize=8, label="best")
        if categories:
            axes.set_xticks(range(len(categories)), [str(each) for each in categories])
        elif "log" in sweep.parameters[key]["distribution"]:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(key)
        axes.grid(alpha=0.3)
    row[0][0].set_ylabel(label)
    row[0][0].legend(frameon=False)
    figure.suptitle(f"sweep {sweep.name}: {len(runs)} draws", fontsize=11)
    save(figure, path)
