"""What a table is made of: a grid of runs, from a YAML in conf/table."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnround.errors import InputError, checked_seed
from attnround.study.row import Row
from attnround.study.tables.columns import COLUMNS, DIFFERENCES, INTERVALS
from attnround.typed import parsed_yaml

KEYS = {"caption", "base", "axes", "skip", "seeds", "compare", "reference", "columns", "pictures", "quick", "in_all"}
PROFILES = ("full", "quick")
MODELS = "models"  # as an axis: the models of the data set that the tables are made on

Axes = dict[str, dict[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Grid:
    """A table's runs and how they are shown.

    axes: name -> label -> overrides; a run has a label of each axis. compare: the axis whose labels stand side by side;
    reference: the one of them that differences are taken from; skip: combinations of labels that are left out;
    in_all: whether it is one of all tables, or made where it is named alone.
    """

    name: str
    caption: str
    axes: Axes
    seeds: tuple[int, ...]
    compare: str
    reference: str | None
    columns: tuple[str, ...]
    pictures: tuple[dict, ...] = ()
    base: tuple[str, ...] = ()
    skip: tuple[dict[str, tuple[str, ...]], ...] = ()
    in_all: bool = True

    @property
    def places(self) -> list[dict[str, str]]:
        """Every combination of labels that is not left out, the last axis fastest."""
        products = (dict(zip(self.axes, labels, strict=True)) for labels in itertools.product(*self.axes.values()))
        return [place for place in products if not any(_inside(place, each) for each in self.skip)]

    @property
    def jobs(self) -> list[tuple[str, ...]]:
        """Overrides of the config `train` for every run, seeds within places; later overrides win."""
        return [
            (*self.base, *(each for axis, label in place.items() for each in self.axes[axis][label]), f"seed={seed}")
            for place in self.places
            for seed in self.seeds
        ]


@dataclass(frozen=True)
class Cell:
    """A combination of labels with the rows of its seeds, in their order: failed ones too, those not yet run absent."""

    place: dict[str, str]
    rows: tuple[Row, ...]


def cells_of(grid: Grid, hashes: Sequence[str], rows: Mapping[str, Row]) -> list[Cell]:
    """The cells of a grid. hashes: of its runs' configs, in their order; rows: config hash -> row."""
    found = [rows.get(each) for each in hashes]
    count = len(grid.seeds)
    parts = [found[i : i + count] for i in range(0, len(found), count)]
    return [
        Cell(place, tuple(row for row in part if row is not None))
        for place, part in zip(grid.places, parts, strict=True)
    ]


def read_models(path: Path) -> dict[str, object]:
    """What the axis `models` stands for. Raises InputError where there is no such file, or it cannot be read."""
    try:
        return parsed_yaml(path.read_text())
    except OSError:
        there = ", ".join(sorted(each.stem for each in path.parent.glob("*.yaml")))
        raise InputError(f"models={path.stem}: give one of {there}") from None
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def read_grid(path: Path, models: Mapping[str, object], profile: str = "full") -> Grid:
    """The table of a file. Raises InputError in one line that names the file and what is wrong with it."""
    try:
        content = parsed_yaml(path.read_text())
    except FileNotFoundError:
        there = ", ".join(sorted(each.stem for each in path.parent.glob("*.yaml")))
        raise InputError(
            f"tables={path.stem}: there is no {path}; give one of {there}, or grids=<the folder of your own>"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    try:
        return _grid(path.stem, content, models, profile)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


KINDS = {
    "caption": (str, "a text"),
    "compare": ((str, int, float), "the name of an axis"),
    "reference": ((str, int, float), "a label of the axis compare, in quotes where YAML reads it as something else"),
    "columns": (list, "a list"),
    "pictures": (list, "a list"),
    "skip": (list, "a list"),
    "quick": (dict, "{seeds: [...], axes: {axis: [labels]}}"),
    "in_all": (bool, "true or false"),
}
NOT_AXES = {  # columns of the CSV that say where a line comes from
    "num_seeds", "num_failed", "best", "error", "published", "config_hashes", "git_revision", "device", "num_threads",
    "total_s", "command",
}  # fmt: skip


def _grid(name: str, content: object, models: Mapping[str, object], profile: str) -> Grid:
    if not isinstance(content, dict) or not set(content) <= KEYS:
        given = ", ".join(sorted(map(str, set(content) - KEYS))) if isinstance(content, dict) else content
        raise InputError(f"{given} is not an option of a table; give {', '.join(sorted(KEYS))}")
    for key in ("caption", "axes", "compare"):
        if not content.get(key):
            raise InputError(f"{key} is missing")
    for key, (kind, said) in KINDS.items():
        if content.get(key) is not None and not isinstance(content[key], kind):
            raise InputError(f"{key}={content[key]}: give {said}")
    axes = _axes(content["axes"], models)
    asked = {str(axis): labels for axis, labels in content["axes"].items()}
    quick = content.get("quick") or {}
    if not set(quick) <= {"axes", "seeds"}:
        raise InputError(f"quick: it has {', '.join(map(str, quick))}: give axes and seeds alone")
    if profile == "quick":
        axes = _narrowed(axes, quick)
    seeds = quick.get("seeds", content.get("seeds")) if profile == "quick" else content.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(each) is int for each in seeds):
        raise InputError(f"seeds={seeds}: give a list of whole numbers")
    for seed in seeds:
        checked_seed(seed)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds={seeds}: one stands there twice, which would count a run twice: give others")
    compare, reference = str(content["compare"]), content.get("reference")
    reference = None if reference is None else str(reference)
    if compare not in axes:
        raise InputError(f"compare={compare} is none of its axes {', '.join(axes)}")
    if reference is not None and reference not in _labels(asked, compare, models):
        raise InputError(f"reference={reference} is none of the labels of {compare}: {', '.join(axes[compare])}")
    columns = tuple(content.get("columns") or ("top1", "drop", "agreement", "sqnr_db", "mib", "seconds"))
    for column in columns:
        if column not in (on_offer := (*COLUMNS, *INTERVALS, *DIFFERENCES)):
            raise InputError(f"columns: {column} is not on offer; give {', '.join(on_offer)}")
    if reference is None and set(columns) & set(DIFFERENCES):
        raise InputError(f"reference is missing: differences are taken from one of the labels of {compare}")
    if reference not in axes[compare]:  # of a part of the table alone, where there is nothing to take them from
        reference, columns = None, tuple(each for each in columns if each not in DIFFERENCES) or ("top1",)
    grid = Grid(
        name=name,
        caption=" ".join(content["caption"].split()),
        axes=axes,
        seeds=tuple(seeds),
        compare=compare,
        columns=columns,
        reference=reference,
        base=_overrides("base", content.get("base") or []),
        skip=tuple(_places(asked, each, models) for each in content.get("skip") or []),
        pictures=tuple(content.get("pictures") or []),
        in_all=content.get("in_all", True),
    )
    if not grid.places:
        raise InputError("the grid is empty: skip leaves nothing of its axes")
    return grid


def _axes(given: object, models: Mapping[str, object]) -> Axes:
    if not isinstance(given, dict):
        raise InputError(f"axes={given}: give axis: {{label: overrides}}")
    axes = {}
    for axis, labels in given.items():
        labels = models if labels == MODELS else labels
        if not isinstance(labels, Mapping) or not labels:
            what = f"is {labels}" if labels else "is empty"
            raise InputError(f"the axis {axis} {what}: give {{label: overrides}}, or {MODELS}")
        if axis in NOT_AXES:
            raise InputError(f"the axis {axis} is called as a column of the CSV is: give it another name")
        if len(set(map(str, labels))) < len(labels):
            raise InputError(f"the axis {axis} has a label twice, once as a number and once as text: give others")
        axes[str(axis)] = {str(label): _overrides(f"{axis}.{label}", each) for label, each in labels.items()}
    return axes


def _labels(given: dict, axis: str, models: Mapping[str, object]) -> set[str]:
    return {str(label) for label in (models if given[axis] == MODELS else given[axis])}


def _overrides(where: str, given: object) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else None
    if listed is None or not all(isinstance(each, str) and "=" in each for each in listed):
        raise InputError(f"{where}={given}: give option=value, or a list of such")
    if any(each.lstrip("+").startswith("seed=") for each in listed):
        raise InputError(f"{where}={given}: the seeds of all lines are those of seeds: give them there")
    return tuple(listed)


def _places(axes: dict, given: object, models: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """axis -> labels, of an entry of skip. Models that these tables are not made on are let pass."""
    if not isinstance(given, dict) or not given:
        raise InputError(f"skip: {given} is no combination of labels, such as {{weights: W4}}")
    place = {str(axis): tuple(map(str, each if isinstance(each, list) else [each])) for axis, each in given.items()}
    for axis, labels in place.items():
        wrong = axis not in axes or (axes[axis] != MODELS and set(labels) - _labels(axes, axis, models))
        if wrong:
            raise InputError(f"skip: {axis} has no label {', '.join(labels)}")
    return place


def _narrowed(axes: Axes, quick: dict) -> Axes:
    """What the quick profile keeps of the axes; a model that is not among these is let pass for the first that is."""
    narrow = dict(axes)
    if not isinstance(quick.get("axes") or {}, dict):
        raise InputError(f"quick: axes={quick['axes']}: give {{axis: [labels]}}")
    for axis, given in (quick.get("axes") or {}).items():
        axis = str(axis)
        if axis not in axes:
            raise InputError(f"quick: {axis} is none of its axes {', '.join(axes)}")
        labels = given if isinstance(given, list) else [given]
        found = {str(label): axes[axis][str(label)] for label in labels if str(label) in axes[axis]}
        if not found and axis != "model":
            raise InputError(f"quick: {axis} has no label {', '.join(map(str, labels))}")
        first = next(iter(axes[axis]))
        narrow[axis] = found or {first: axes[axis][first]}
    return narrow


def _inside(place: dict[str, str], pattern: dict[str, Sequence[str]]) -> bool:
    return all(place[axis] in labels for axis, labels in pattern.items())
