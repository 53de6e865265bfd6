"""How every picture looks, of a run, a table or a sweep.

Colours that colour-blind readers can tell apart (Okabe and Ito), with a marker and a hatch each for a grey print, on a
white ground that stays white on a dark page.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from attnround.files import write_atomically

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "+++", "|||")
DASHES = ("-", "--", "-.", (0, (1, 1)))
INK, SOFT, PALE = "#333333", "#666666", "#E4E4E4"  # what is written on a picture; axes and levels; grids
FLOAT = "FP32"  # the level of the float model, last in a legend
SMALL, LARGE = 7.5, 10.5  # points: numbers and names beside what they belong to; titles
RULES = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "svg.hashsalt": "attnround",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "figure.titlesize": LARGE,
    "figure.titleweight": "bold",
    "figure.labelsize": 10,
    "font.size": 10,
    "axes.titlesize": LARGE,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": PALE,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.5,
    "lines.markeredgecolor": "white",
    "lines.markeredgewidth": 0.5,
    "errorbar.capsize": 2.5,
    "hatch.linewidth": 0.6,
    "savefig.dpi": 150,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.06,
    "text.parse_math": False,  # a $ in a label is a $
}
styled = plt.style.context(["default", RULES])  # a decorator: what a function draws and saves looks like this


def line_look(place: int) -> dict[str, object]:
    """How the line at this place of a legend looks."""
    colour, shape = _places(place)
    return {"color": COLOURS[colour], "marker": MARKERS[shape], "linestyle": DASHES[shape % len(DASHES)]}


def bar_look(place: int) -> dict[str, object]:
    """How the bars at this place of a legend look."""
    colour, shape = _places(place)
    return {"color": COLOURS[colour], "hatch": HATCHES[shape], "edgecolor": "white"}


def _places(place: int) -> tuple[int, int]:
    """Of a colour and of a shape, of eight each: where colours begin anew, shapes are others than before."""
    colour = place % len(COLOURS)
    return colour, (colour + place // len(COLOURS)) % len(COLOURS)


def add_legend(figure: plt.Figure, title: str | None = None, place: str = "outside lower center") -> None:
    """One legend of all axes, below them or in another place; none where nothing has a name."""
    found = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if FLOAT in found:
        found[FLOAT] = found.pop(FLOAT)
    if found:
        figure.legend(found.values(), found.keys(), title=title, loc=place, ncols=min(len(found), 4))


def save(figure: plt.Figure, paths: Sequence[Path], title: str) -> None:
    """Write a picture as the endings of the paths say, and forget it; the same picture gives the same bytes.

    title: for those who do not see it.
    """
    for path in paths:
        # No date and no version, which change a file but no picture.
        metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
        drawn = io.BytesIO()  # a full disk leaves no half of it
        figure.savefig(drawn, format=path.suffix.lstrip("."), metadata=metadata | {"Title": title})
        write_atomically(path, drawn.getvalue())
    plt.close(figure)
