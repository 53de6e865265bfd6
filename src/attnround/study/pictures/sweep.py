"""What a sweep found, as a picture: lines over a grid, a cloud over draws."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from attnround.study.pictures.marks import Line, Panel, Point, Scale
from attnround.study.pictures.panels import Frame, draw_panels
from attnround.study.sweep import Sweep
from attnround.study.tables.columns import COLUMNS
from attnround.study.tables.statistics import spread

NAMES = {f"quantized/{name}": COLUMNS[name].axis for name in ("top1", "agreement", "sqnr_db")}

Runs = Sequence[tuple[dict, float]]


def draw_sweep(sweep: Sweep, runs: Runs, path: Path) -> None:
    """The metric of some runs, each a point of the sweep and a value, against what was varied. path: .png or .svg."""
    y, grid = NAMES.get(sweep.metric, sweep.metric), sweep.method == "grid"
    panels = [_grid(sweep, runs)] if grid else _cloud(sweep, runs)
    seeds = len(sweep.parameters.get("seed", {}).get("values", [0]))
    counted = seeds > 1 and sweep.varied[0] != "seed"
    about = f", {seeds} seeds: mean and standard deviation" * counted if grid else f": {len(runs)} draws"
    kind = "lines" if grid and _numbers(sweep) else "scatter"
    draw_panels(panels, Frame(kind, y, f"sweep {sweep.name}{about}", share_y=True), [path], f"sweep {sweep.name}: {y}")


def lines_of(sweep: Sweep, runs: Runs) -> dict[str, dict[str, list[float]]]:
    """A line for each combination of the parameters after the first: value of the first -> the metric of its seeds.

    Values go by their texts, since a list is one too.
    """
    first, *others = sweep.varied
    lines = defaultdict(lambda: defaultdict(list))
    for point, value in runs:
        name = ", ".join(f"{key.split('.')[-1]}={point[key]}" for key in others)
        lines[name][str(point[first])].append(value)
    return lines


def _numbers(sweep: Sweep) -> bool:
    """Whether there is a way between two values of what a grid varies first."""
    values = sweep.parameters[sweep.varied[0]]["values"]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _grid(sweep: Sweep, runs: Runs) -> Panel:
    x = sweep.varied[0]
    values = sweep.parameters[x]["values"]
    values = sorted(values) if _numbers(sweep) else values
    places = {str(value): value if _numbers(sweep) else i for i, value in enumerate(values)}
    log = _numbers(sweep) and values[0] > 0 and values[-1] >= 10 * values[0]
    lines = []
    for number, (name, found) in enumerate(lines_of(sweep, runs).items()):
        points = [(places[value], spread(metrics)) for value, metrics in found.items()]
        points = [Point(place, each.mean, y_spread=each.std or 0.0) for place, each in points]
        lines.append(Line(name or None, number, False, sorted(points, key=lambda point: point.x)))
    ticks = {place: f"{place:g}" if _numbers(sweep) else value for value, place in places.items()}
    return Panel(None, lines, None, Scale(x, "log10" if log else "linear", ticks))


def _cloud(sweep: Sweep, runs: Runs) -> list[Panel]:
    best = (max if sweep.goal == "maximize" else min)(runs, key=lambda run: run[1])
    panels = []
    for key in sweep.varied:
        given = sweep.parameters[key]
        values = given.get("values")
        draws, top = (
            [Point(values.index(point[key]) if values else point[key], value) for point, value in some]
            for some in (runs, [best])
        )
        log = "log" in given.get("distribution", "")
        x = Scale(key, "log10" if log else "linear", dict(enumerate(map(str, values or ()))))
        panels.append(Panel(None, [Line("draws", 0, False, draws), Line("best", 1, True, top)], None, x))
    return panels
