"""The pictures of a run."""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from attnround.experiment.style import COLOURS, INK, PALE, SMALL, SOFT, add_legend, bar_look, line_look, save, styled

ACROSS = 6  # photographs of a sheet
SAME, OTHER = COLOURS[0], COLOURS[1]  # where the quantized model says what FP32 says, and where it does not
RIGHT = {True: " \N{CHECK MARK}", False: " \N{BALLOT X}", None: ""}


class Answer(NamedTuple):
    """A model's first class for an image: its index, name and probability in percent.

    right: whether it is; None where nobody knows.
    """

    index: int
    name: str
    confidence: float
    right: bool | None


class Photograph(NamedTuple):
    """An image [H, W, C] in 0 to 1 as both models got it, and what they said."""

    image: np.ndarray
    reference: Answer
    quantized: Answer


@styled
def draw_layers(rows: Sequence[dict], path: Path, title: str) -> None:
    """Bits of each layer as bars; below, the signal-to-noise ratio of its unit's output, before and after.

    rows: dicts with name, unit, bits, start_sqnr_db, output_sqnr_db. The layers of one unit are joined by a line.
    """
    places = range(len(rows))
    figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(_width(rows), 6), height_ratios=[1, 1.3])
    top.bar(places, [row["bits"] for row in rows], color=SOFT, alpha=0.6)
    _write(top, [(row["bits"], str(row["bits"])) for row in rows])
    top.set(ylabel="weight bits", ylim=(0, 1.2 * max(row["bits"] for row in rows)), title=title)
    top.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 4, 10]))
    top.grid(visible=False, axis="x")
    start, output = ([row[key] for row in rows] for key in ("start_sqnr_db", "output_sqnr_db"))
    bottom.vlines(places, start, output, color=PALE, linewidth=4, zorder=1)
    for place, values, label in (
        (1, start, "as started: nearest, or what an earlier stage left"),
        (0, output, "as reconstructed"),
    ):
        for _, unit in groupby(places, key=lambda layer: rows[layer]["unit"]):
            unit = list(unit)
            bottom.plot(unit, [values[layer] for layer in unit], label=label, **line_look(place))
            label = None
    data_free = rows[0].get("objective") == "weights"
    bottom.set_ylabel("weight SQNR, dB" if data_free else "unit output SQNR, held out, dB")
    _name(bottom, rows)
    top.tick_params(axis="x", length=0)
    add_legend(figure)
    save(figure, [path], title)


@styled
def draw_moved(rows: Sequence[dict], path: Path, title: str) -> None:
    """How far the weights of each layer moved from their nearest levels, as stacked bars; the number is all that moved.

    rows: dicts with name, moved_one, moved_more in percent.
    """
    places = range(len(rows))
    one, more = ([row[key] for row in rows] for key in ("moved_one", "moved_more"))
    moved = [sum(pair) for pair in zip(one, more, strict=True)]
    figure, axes = plt.subplots(figsize=(_width(rows), 4.5))
    axes.bar(places, more, label="2 levels or more", **bar_look(1))
    axes.bar(places, one, bottom=more, label="1 level", **bar_look(0))
    axes.bar(places, [100 - share for share in moved], bottom=moved, color=PALE, label="0: nearest")
    _write(axes, [(min(share, 95), f"{share:.0f}") for share in moved])
    axes.set(ylabel="weights by distance from nearest, %", ylim=(0, 100), title=title)
    _name(axes, rows)
    add_legend(figure)
    save(figure, [path], title)


@styled
def draw_losses(units: Sequence[dict], path: Path, title: str) -> None:
    """The loss of each unit while it was learned: a panel a unit in their order, all on one logarithmic scale.

    units: dicts with name, objective and losses (at least one, in percent of the output's variance, a value a burst).
    """
    columns = min(len(units), math.ceil(math.sqrt(1.5 * len(units))))
    lines = math.ceil(len(units) / columns)
    size = max(6.0, 1.7 * columns + 0.8), max(3.5, 1.35 * lines + 1.4)
    figure, grid = plt.subplots(lines, columns, sharex=True, sharey=True, squeeze=False, figsize=size)
    objectives = list(dict.fromkeys(unit["objective"] for unit in units))
    for axes, unit in zip(grid.flat, units, strict=False):
        losses, look = unit["losses"], line_look(objectives.index(unit["objective"]))
        bursts = range(1, len(losses) + 1)
        axes.plot(bursts, losses, label=unit["objective"], markevery=[len(losses) - 1], **look)
        axes.set_title(unit["name"], fontsize=SMALL, weight="normal")
        axes.annotate(
            f"{losses[-1]:.2g}", (0.97, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize=SMALL, color=INK
        )
        axes.tick_params(which="both", labelsize=SMALL)
    for axes in grid.flat[len(units) :]:
        axes.set_visible(False)
    for axes in grid.flat[max(0, len(units) - columns) : len(units)]:
        axes.tick_params(labelbottom=True)  # also above a panel that is not there
    # A loss of zero has no place on the scale; where all are zero there is no scale.
    if any(loss > 0 for unit in units for loss in unit["losses"]):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(0.5, max(len(unit["losses"]) for unit in units) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    figure.suptitle(title, x=0.01, ha="left")
    figure.supxlabel("burst of iterations")
    figure.supylabel("loss, % of the output's variance")
    if len(objectives) > 1:
        add_legend(figure, place="outside upper right")
    save(figure, [path], title)


@styled
def draw_trials(trials: Sequence[dict], path: Path, title: str) -> None:
    """The budgets that were tried, numbered in their order, and how far each quantized model agreed with FP32.

    trials: dicts with mean_bits and agreement in percent.
    """
    figure, axes = plt.subplots(figsize=(6, 4.5))
    points = [(trial["mean_bits"], trial["agreement"]) for trial in trials]
    axes.plot(*zip(*sorted(points), strict=True), **line_look(0))
    for number, point in enumerate(points, 1):
        axes.annotate(str(number), point, (4, -10), textcoords="offset points", fontsize=SMALL, color=INK)
    axes.set(xlabel="mean bits of a weight", ylabel="agreement with FP32, calibration images, %", title=title)
    save(figure, [path], title)


@styled
def draw_photographs(photographs: Sequence[Photograph], path: Path, title: str) -> None:
    """A sheet of images in their order; above each what FP32 says it shows, and what the quantized model says."""
    lines = math.ceil(len(photographs) / ACROSS)
    across = min(ACROSS, len(photographs))
    figure, grid = plt.subplots(lines, across, squeeze=False, figsize=(max(6.0, 1.9 * across), 2.25 * lines + 0.4))
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (image, reference, quantized) in zip(grid.flat, photographs, strict=False):
        axes.imshow(np.repeat(image, 3 // image.shape[2], axis=2))  # grey in all three channels
        colour = SAME if quantized.index == reference.index else OTHER
        for height, answer, look in (
            (1.105, reference, {"color": INK}),
            (1.025, quantized, {"color": colour, "weight": "bold"}),
        ):
            text = f"{_shortened(answer.name)} {answer.confidence:.0f} %{RIGHT[answer.right]}"
            axes.text(0, height, text, transform=axes.transAxes, fontsize=SMALL, **look)
    figure.suptitle(f"{title}\n", x=0.01, ha="left")  # a line's room below it, for what stands above the images
    save(figure, [path], title)


def _shortened(name: str, most: int = 20) -> str:
    """
    >>> _shortened("American alligator"), _shortened("black and gold garden spider")
    ('American alligator', 'black and gold gard…')
    """
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _width(rows: Sequence[dict]) -> float:
    return max(6.0, 0.28 * len(rows) + 2)


def _write(axes: Axes, bars: Sequence[tuple[float, str]]) -> None:
    """A text on each bar. bars: height and text."""
    for place, (height, text) in enumerate(bars):
        axes.annotate(
            text,
            (place, height),
            (0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=SMALL,
            color=INK,
        )


def _name(axes: Axes, rows: Sequence[dict]) -> None:
    axes.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=90, fontsize=SMALL)
    axes.set_xlim(-0.7, len(rows) - 0.3)
    axes.grid(visible=False, axis="x")
