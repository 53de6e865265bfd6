"""Panels side by side in one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt

from attnround.experiment.style import FLOAT, SOFT, add_legend, save, styled
from attnround.study.pictures.marks import Panel, draw_bars, draw_lines, draw_points, name_points

DRAW = {"lines": draw_lines, "bars": draw_bars, "scatter": draw_points}


@dataclass(frozen=True)
class Frame:
    """What is around the panels. y: the name of that axis with its unit; legend: what the lines differ in."""

    kind: str
    y: str
    title: str | None = None
    legend: str | None = None
    share_y: bool = False


@styled
def draw_panels(panels: Sequence[Panel], frame: Frame, paths: Sequence[Path], says: str) -> None:
    """Draw the panels, three abreast, into each of these files. says: what the picture shows, in words."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    size = (6.4 if columns == 1 else 4.2 * columns, 3.4 * rows + 0.9)
    figure, grid = plt.subplots(rows, columns, squeeze=False, sharey=frame.share_y, figsize=size)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, panel in zip(grid.flat, panels, strict=False):
        DRAW[frame.kind](axes, panel)
        if panel.level is not None:
            axes.axhline(panel.level, color=SOFT, linestyle=(0, (4, 3)), linewidth=1, label=FLOAT, zorder=1)
        axes.set_title(panel.title)
        axes.set_xlabel(panel.x.name)
    for axes in grid[:, 0]:
        axes.set_ylabel(frame.y)
    if frame.title:
        figure.suptitle(frame.title, x=0.01, ha="left")
    add_legend(figure, frame.legend)
    if frame.kind == "scatter":
        figure.draw_without_rendering()  # which settles the layout
        for axes, panel in zip(figure.axes, panels, strict=True):
            name_points(axes, panel)
    save(figure, paths, says)
