"""Pictures, in colours that colour-blind readers can tell apart (Okabe and Ito) and that print well."""

import math
import statistics
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, GREY, LIGHT = "#0072B2", "#D55E00", "#009E73", "#999999", "#E8E8E8"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # so that lines differ without colours


def draw_layers(rows: Sequence[dict], path: Path, title: str) -> None:
    """Bits of each layer as bars; below, the signal-to-noise ratio of its unit's output, before and after.

    rows: dicts with name, unit, bits, start_sqnr_db, output_sqnr_db. The layers of one unit are joined by a line.
    """
    places = range(len(rows))
    figure, (top, bottom) = plt.subplots(
        2, 1, sharex=True, figsize=(_width(rows), 6), height_ratios=[1, 1.3], layout="constrained"
    )
    top.bar(places, [row["bits"] for row in rows], color=GREY, width=0.7)
    for place, row in zip(places, rows, strict=True):
        top.annotate(str(row["bits"]), (place, row["bits"]), ha="center", va="bottom", fontsize=8)
    top.set(ylabel="weight bits", ylim=(0, 9), title=title)
    start, output = ([row[key] for row in rows] for key in ("start_sqnr_db", "output_sqnr_db"))
    bottom.vlines(places, start, output, color="#CCCCCC", linewidth=4, zorder=1)
    for values, style, colour, label in (
        (start, "o--", ORANGE, "as started: nearest, or what an earlier stage left"),
        (output, "s-", BLUE, "as reconstructed"),
    ):
        for _, unit in groupby(places, key=lambda place: rows[place]["unit"]):
            unit = list(unit)
            bottom.plot(unit, [values[place] for place in unit], style, color=colour, markersize=5, label=label)
            label = None
    data_free = rows[0].get("objective") == "weights"
    bottom.set(ylabel="weight SQNR, dB" if data_free else "unit output SQNR, held out, dB")
    _name(bottom, rows)
    figure.legend(*bottom.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def draw_moved(rows: Sequence[dict], path: Path, title: str) -> None:
    """How far the weights of each layer moved from their nearest levels, as stacked bars; the number is all that moved.

    rows: dicts with name, moved_one, moved_more in percent.
    """
    places = range(len(rows))
    one, more = ([row[key] for row in rows] for key in ("moved_one", "moved_more"))
    moved = [sum(pair) for pair in zip(one, more, strict=True)]
    figure, axes = plt.subplots(figsize=(_width(rows), 4.5), layout="constrained")
    axes.bar(places, more, color=ORANGE, width=0.8, label="2 levels or more")
    axes.bar(places, one, bottom=more, color=BLUE, width=0.8, label="1 level")
    axes.bar(places, [100 - share for share in moved], bottom=moved, color=LIGHT, width=0.8, label="0: nearest")
    for place, share in zip(places, moved, strict=True):
        axes.annotate(f"{share:.0f}", (place, min(share, 95)), ha="center", va="bottom", fontsize=8)
    axes.set(ylabel="weights by distance from nearest, %", ylim=(0, 100), title=title)
    _name(axes, rows)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def draw_losses(units: Sequence[dict], path: Path, title: str) -> None:
    """The loss of each unit while it was learned: a panel a unit in their order, all on one logarithmic scale.

    units: dicts with name, objective and losses (at least one, in percent of the output's variance, a value a burst).
    """
    columns = math.ceil(math.sqrt(1.5 * len(units)))
    lines = math.ceil(len(units) / columns)
    size = max(6.0, 1.7 * columns + 0.8), 1.35 * lines + 1.4
    figure, grid = plt.subplots(
        lines, columns, sharex=True, sharey=True, squeeze=False, figsize=size, layout="constrained"
    )
    objectives = list(dict.fromkeys(unit["objective"] for unit in units))
    for axes, unit in zip(grid.flat, units, strict=False):
        losses, colour = unit["losses"], (BLUE, ORANGE, GREEN)[objectives.index(unit["objective"]) % 3]
        bursts = range(1, len(losses) + 1)
        axes.plot(bursts, losses, "-", color=colour, linewidth=1.5, label=unit["objective"])
        axes.plot(bursts[-1:], losses[-1:], "o", color=colour, markersize=4)
        axes.set_title(unit["name"], fontsize=8)
        axes.annotate(f"{losses[-1]:.2g}", (0.95, 0.93), xycoords="axes fraction", ha="right", va="top", fontsize=8)
    for axes in grid.flat:
        axes.grid(alpha=0.3)
        axes.tick_params(which="both", labelsize=8)
    for axes in grid.flat[len(units) :]:
        axes.set_visible(False)
    for axes in grid.flat[max(0, len(units) - columns) : len(units)]:
        axes.tick_params(labelbottom=True)  # also above a panel that is not there
    # A loss of zero has no place on the scale; where all are zero there is no scale.
    if any(loss > 0 for unit in units for loss in unit["losses"]):
        axes.set_yscale("log")
    longest = max(len(unit["losses"]) for unit in units)
    axes.set_xlim(0.5, longest + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    figure.suptitle(title)
    figure.supxlabel("burst of iterations", fontsize=10)
    figure.supylabel("loss, % of the output's variance", fontsize=10)
    if len(objectives) > 1:
        curves = {axes.lines[0].get_label(): axes.lines[0] for axes in grid.flat[: len(units)]}
        figure.legend(handles=curves.values(), loc="outside upper right", frameon=False)
    save(figure, path)


def draw_trials(trials: Sequence[dict], path: Path, title: str) -> None:
    """The budgets that were tried, numbered in their order, and how far each quantized model agreed with FP32.

    trials: dicts with mean_bits and agreement in percent.
    """
    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    points = sorted((trial["mean_bits"], trial["agreement"]) for trial in trials)
    axes.plot(*zip(*points, strict=True), "-", color=LIGHT, zorder=1)
    for number, trial in enumerate(trials, 1):
        axes.plot(trial["mean_bits"], trial["agreement"], "o", color=BLUE, markersize=5)
        place = (trial["mean_bits"], trial["agreement"])
        axes.annotate(str(number), place, xytext=(4, -10), textcoords="offset points", fontsize=8)
    axes.set(xlabel="mean bits of a weight", ylabel="agreement with FP32, calibration images, %", title=title)
    axes.grid(alpha=0.3)
    save(figure, path)


def draw_lines(
    lines: dict[str, list[tuple[float, list[float]]]],
    path: Path,
    title: str,
    labels: tuple[str, str],
    ticks: dict[float, str] | None = None,
    log: bool = False,
    joined: bool = True,
) -> None:
    """A line a name: its points' means, with bars of a standard deviation where there are several values.

    lines: name -> (x, values at it) in ascending order of x; labels: of the two axes; ticks: x -> what stands there.
    log: whether x goes by factors; joined: whether there is a way between two of its points. No name, no legend.
    """
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for i, (name, points) in enumerate(lines.items()):
        means = [statistics.mean(values) for _, values in points]
        spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points]
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        style["linestyle"] = "-" if joined else "none"
        axes.errorbar([x for x, _ in points], means, spreads, label=name, capsize=3, markersize=5, **style)
    axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
    if log:
        axes.set_xscale("log")
    if ticks is not None:
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.minorticks_off()
    axes.grid(alpha=0.3)
    if list(lines) != [""]:
        axes.legend(frameon=False)
    save(figure, path)


def _width(rows: Sequence[dict]) -> float:
    return max(6.0, 0.28 * len(rows) + 2)


def _name(axes: Axes, rows: Sequence[dict]) -> None:
    axes.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=90, fontsize=8)
    axes.set_xlim(-0.7, len(rows) - 0.3)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def save(figure: plt.Figure, path: Path) -> None:
    """Write and forget a picture; the end of the name says its kind."""
    figure.savefig(path, dpi=130)
    plt.close(figure)
