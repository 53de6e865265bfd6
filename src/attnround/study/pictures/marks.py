"""What is drawn into a panel: lines, bars or points, told apart by colour and by marker or hatch."""

from dataclasses import dataclass, field
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from attnround.experiment.style import INK, SMALL, SOFT, bar_look, line_look


@dataclass(frozen=True)
class Point:
    """A mean in x and y with its standard deviations, and what it is called where the line does not say so."""

    x: float
    y: float
    x_spread: float = 0.0
    y_spread: float = 0.0
    name: str = ""


@dataclass(frozen=True)
class Line:
    """Points ascending in x. place: which colour and marker; strong: the one the others are compared with."""

    label: str | None
    place: int
    strong: bool
    points: list[Point]


@dataclass(frozen=True)
class Scale:
    """An x axis: its name with the unit, linear, log2 or log10, and place -> label where only these are marked."""

    name: str
    kind: str = "linear"
    ticks: dict[float, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """The lines of one panel, and the level at which the float model stands."""

    title: str | None
    lines: list[Line]
    level: float | None
    x: Scale


def draw_lines(axes: Axes, panel: Panel) -> None:
    """The points of each line, joined."""
    for line in panel.lines:
        _plot(axes, line, linewidth=2.4 if line.strong else 1.5)
    _mark(axes, panel.x)


def draw_points(axes: Axes, panel: Panel) -> None:
    """The points, with room for a name beside each."""
    for line in panel.lines:
        _plot(axes, line, linestyle="none")
    axes.margins(0.12)
    _mark(axes, panel.x)


def _plot(axes: Axes, line: Line, **look: object) -> None:
    x, y, x_spread, y_spread = zip(*[(p.x, p.y, p.x_spread, p.y_spread) for p in line.points], strict=True)
    axes.errorbar(
        x, y, y_spread if any(y_spread) else None, x_spread if any(x_spread) else None, label=_legend(line),
        elinewidth=1, zorder=4 if line.strong else 3,
        **line_look(line.place) | {"markersize": 7 if line.strong else 5.5} | look,
    )  # fmt: skip


def _legend(line: Line) -> str | None:
    """A line's label, in the legend too where it begins with _: such labels matplotlib leaves out."""
    return f" {line.label}" if (line.label or "").startswith("_") else line.label


def draw_bars(axes: Axes, panel: Panel) -> None:
    """Bars from zero, their values on them; the lines of a label of x stand side by side."""
    width = 0.8 / len(panel.lines)
    count = sum(len(line.points) for line in panel.lines)
    for number, line in enumerate(panel.lines):
        shift = (number - (len(panel.lines) - 1) / 2) * width
        places, heights = [point.x + shift for point in line.points], [point.y for point in line.points]
        axes.bar(places, heights, 0.92 * width, label=_legend(line), **bar_look(line.place))
        axes.errorbar(places, heights, [p.y_spread for p in line.points], fmt="none", ecolor=INK, elinewidth=1)
        for place, point in zip(places, line.points, strict=True):
            up = point.y >= 0
            axes.annotate(
                f"{point.y:.2f}", (place, point.y + (point.y_spread if up else -point.y_spread)), (0, 3 if up else -3),
                textcoords="offset points", ha="center", va="bottom" if up else "top", fontsize=SMALL, color=INK,
                rotation=90 if count > 8 else 0,
            )  # fmt: skip
    _mark(axes, panel.x)
    axes.set_xlim(-0.5, len(panel.x.ticks) - 0.5)
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", length=0)
    axes.margins(y=0.2 if count > 8 else 0.12)
    axes.axhline(0, color=SOFT, linewidth=0.8)


def _mark(axes: Axes, x: Scale) -> None:
    """Ticks with plain numbers: at those that are given, or on a logarithmic axis at 1, 2 and 5 of few decades."""
    if x.kind != "linear":
        axes.set_xscale("log", base=int(x.kind[3:]))
        axes.xaxis.set_minor_locator(NullLocator())
        low, high = axes.get_xlim()
        if x.kind == "log10":
            axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 100 * low else (1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: x.ticks.get(place, f"{place:g}")))
    if x.ticks:
        room = max(8, 44 // len(x.ticks))  # characters
        axes.xaxis.set_major_locator(FixedLocator(list(x.ticks)))
        axes.set_xticklabels([fill(label, room, break_long_words=False) for label in x.ticks.values()])


def name_points(axes: Axes, panel: Panel) -> None:
    """Write each point's name beside it, where it covers least of what is there already. The layout must be final."""
    points = [point for line in panel.lines for point in line.points]
    places = axes.transData.transform([(point.x, point.y) for point in points])
    taken = [Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for point in points:
        if point.name:
            taken.append(_name(axes, point, taken))


def _name(axes: Axes, point: Point, taken: list[Bbox]) -> Bbox:
    texts = [
        axes.annotate(
            point.name, (point.x, point.y), (5 * right, 5 * up), textcoords="offset points", fontsize=SMALL,
            color=INK, ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up],
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3},
        )
        for right, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
    ]  # fmt: skip
    boxes = [text.get_window_extent() for text in texts]
    costs = [box.count_overlaps(taken) + (box.x0 < axes.bbox.x0) + (box.x1 > axes.bbox.x1) for box in boxes]
    best = costs.index(min(costs))
    for number, text in enumerate(texts):
        if number == best:
            text.set_in_layout(False)
        else:
            text.remove()
    return boxes[best]
