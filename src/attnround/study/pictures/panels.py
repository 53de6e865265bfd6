"""Panels side by side in one picture, as PNG and as SVG."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from attnround.study.pictures.marks import Frame, Panel, draw_bars, draw_lines, draw_points, name_points

RULES = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "svg.hashsalt": "attnround",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.edgecolor": "#666666",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 9.5,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.06,
    "text.parse_math": False,  # a $ in a label is a $
}
DRAW = {"lines": draw_lines, "bars": draw_bars, "scatter": draw_points}


def draw_panels(panels: Sequence[Panel], frame: Frame, paths: Sequence[Path]) -> None:
    """Draw the panels, three abreast, into each of these files; the same input gives the same bytes."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    size = (6.4 if columns == 1 else 4.2 * columns, 3.4 * rows + 0.9)
    with plt.style.context(["default", RULES]):
        figure, grid = plt.subplots(
            rows, columns, squeeze=False, sharey=frame.kind == "bars", figsize=size, layout="constrained"
        )
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes, panel in zip(grid.flat, panels, strict=False):
            DRAW[frame.kind](axes, panel, frame)
            if panel.level is not None:
                axes.axhline(panel.level, color="#555555", linestyle=(0, (4, 3)), linewidth=1, label="FP32", zorder=1)
            axes.set_title(panel.title, loc="left")
            axes.set_xlabel(frame.names[0])
        for axes in grid[:, 0]:
            axes.set_ylabel(frame.names[1])
        if frame.title:
            figure.suptitle(frame.title, x=0.01, ha="left", weight="bold")
        _legend(figure, frame)
        if frame.kind == "scatter":
            figure.draw_without_rendering()  # which settles the layout
            for axes, panel in zip(figure.axes, panels, strict=True):
                name_points(axes, panel)
        for path in paths:
            figure.savefig(path, dpi=150, metadata=_metadata(frame, path))
        plt.close(figure)


def _metadata(frame: Frame, path: Path) -> dict[str, str | None]:
    """A title, for those who do not see it; no date and no version, which change a file but no picture."""
    title = frame.title or f"{frame.names[1]} against {frame.names[0]}"
    return {"Date": None, "Creator": None, "Title": title} if path.suffix == ".svg" else {"Software": None}


def _legend(figure: plt.Figure, frame: Frame) -> None:
    found = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if "FP32" in found:
        found["FP32"] = found.pop("FP32")  # last
    if found:
        place = {"loc": "outside lower center", "ncols": min(len(found), 4)}
        figure.legend(found.values(), found.keys(), title=frame.legend, **place)
