"""Run a W&B sweep file here, without a server, and draw what it found.

    python src/sweep.py sweeps/sigma.yaml
    python src/sweep.py sweeps/sigma.yaml hydra/launcher=joblib model=mobilenetv2_050 hydra.sweep.dir=outputs/mine

Options are those of src/train.py, for all runs of the sweep: `python src/train.py --help` lists them.
"""

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attnround.cli.entry import start

if TYPE_CHECKING:
    from attnround.study.row import Row
    from attnround.study.runner import Planned
    from attnround.study.sweep import Sweep


def run() -> None:
    """Run what is not there yet of the sweep; write its CSV and its picture."""
    from attnround.cli.parsed import names, parsed, split
    from attnround.cli.rows import check_loggers, cost_by, failed_of, missing_of, plan, run_rows, workers_of
    from attnround.errors import InputError, choice
    from attnround.experiment import METRICS
    from attnround.study.row import read_rows
    from attnround.study.sweep import fixed, points, read_sweep

    words, flags = split(sys.argv[1:])
    for flag in flags:
        if flag.startswith("-") and not flag.startswith("--config-dir"):
            raise InputError(f"{flag}: of flags a sweep takes --config-dir alone")
    files = [each for each in words if "=" not in each or Path(each).is_file()]
    given = [each for each in words if each not in files]
    if len(files) != 1:
        raise InputError("give one W&B sweep file, such as sweeps/sigma.yaml, and then options as key=value")
    sweep = read_sweep(Path(files[0]))
    if sweep.metric not in METRICS["quantize"]:
        raise InputError(f"{files[0]}: {choice('metric.name', sweep.metric, METRICS['quantize'])}")
    launcher = [each for each in given if each.startswith(("hydra/launcher=", "hydra.launcher."))]
    workers = workers_of(launcher)
    place = _last(given, "hydra.sweep.dir=", "")
    folder = Path(str(parsed(f"hydra.sweep.dir={place}").value()) if place else f"outputs/sweeps/{sweep.name}")
    loggers = [str(each) for each in names(parsed(f"logger={_last(given, 'logger=', 'csv')}"))]
    check_loggers("logger", loggers)
    for each in given:
        if each.startswith("hydra") and each not in launcher and not each.startswith("hydra.sweep.dir="):
            raise InputError(f"{each}: of Hydra's a sweep takes hydra/launcher, hydra.launcher.* and hydra.sweep.dir")
    more = [each for each in given if not each.startswith(("hydra", "logger="))]
    for each in more:
        if parsed(each).is_sweep_override():
            raise InputError(f"{each}: a sweep varies what its file says: give one value, or put these into {files[0]}")
    sweep = fixed(sweep, more)
    every = points(sweep)
    runs: dict[str, tuple[dict, Planned]] = {}
    jobs = [_overrides(sweep, point, more) for point in every]
    for point, planned in zip(every, plan(sweep.name, jobs, files[0]), strict=True):
        runs.setdefault(planned.config_hash, (point, planned))  # a run that is drawn twice is one
    rows = read_rows(folder / "rows")
    missing, cost = missing_of((run for _, run in runs.values()), rows), cost_by(rows, folder / "rows")
    kind = "grid" if sweep.method == "grid" else "random search"
    if sweep.method == "bayes":
        kind += " (bayes takes W&B's server, which would learn from run to run)"
    for each in sweep.left_out:
        print(f"{sweep.name}: {each} is for W&B's server: here every run is made, to its end")
    if len(runs) < len(every):
        print(f"{sweep.name}: {len(every) - len(runs)} of {len(every)} points are runs that others are too")
    estimate = cost.estimate([each.source for each in missing.values()], workers.count)
    print(f"{sweep.name}: {kind}, {len(runs)} runs, {len(missing)} to run{estimate}; to {folder}", flush=True)
    run_rows(missing, folder / "rows", folder / "runs", cost, workers, loggers)
    rows = read_rows(folder / "rows", runs)
    _report(sweep, list(runs.values()), rows, folder)
    failed = failed_of(rows.values())
    if failed:
        sys.exit(f"error: {failed} of {len(runs)} runs failed; the same command runs these again")


def _last(given: Sequence[str], start: str, default: str) -> str:
    return next((each.removeprefix(start) for each in reversed(given) if each.startswith(start)), default)


def _overrides(sweep: "Sweep", point: Mapping[str, object], more: Sequence[str]) -> list[str]:
    """What all runs share, then the point's, then what was given here; of an option that is named twice the last."""
    from attnround.study.sweep import arguments, option_of

    named = {}
    for each in (*sweep.shared, *arguments(point), *more):
        key = option_of(each)
        named.pop(key, None)
        named[key] = each
    return list(named.values())


def _report(sweep: "Sweep", runs: Sequence[tuple[dict, "Planned"]], rows: Mapping[str, "Row"], folder: Path) -> None:
    """Write the CSV of the points and their metrics, and the picture of those that did not fail."""
    from attnround.errors import InputError
    from attnround.files import write_atomically
    from attnround.study.gather import METRICS
    from attnround.study.pictures.sweep import draw_sweep
    from attnround.study.sweep import arguments, over_seeds
    from attnround.table import csv_text

    names, lines, values = dict.fromkeys((sweep.metric, *METRICS)), [], []
    for point, run in runs:
        row = rows[run.config_hash]
        if row.metrics and sweep.metric not in row.metrics:
            known = ", ".join(row.metrics)
            raise InputError(f"metric.name={sweep.metric}: these runs have {known}; they are in {folder}")
        metrics = {name: f"{row.metrics[name]:.6g}" if name in row.metrics else "" for name in names}
        about = {"config_hash": row.config_hash, "git_revision": row.git_revision, "error": row.error or ""}
        lines.append(point | metrics | about)
        values.append((point, row.metrics.get(sweep.metric, math.nan)))
    target = folder / f"{sweep.name}.csv"
    write_atomically(target, csv_text(lines))
    print(f"rows: {target}")
    finite = [each for each in values if math.isfinite(each[1])]
    if finite:
        for end in (".png", ".svg"):
            draw_sweep(sweep, finite, target.with_suffix(end))
        print(f"picture: {target.with_suffix('.png')}, .svg")
    places = over_seeds(values)
    whole = [(point, found) for point, found in places if all(map(math.isfinite, found))]
    if len(whole) < len(places):
        what = f"{len(places) - len(whole)} of {len(places)} points, of which a run failed or has no finite number"
        print(f"best {sweep.metric}: without {what}")
    if whole:
        best = max if sweep.goal == "maximize" else min
        point, found = best(whole, key=lambda each: statistics.mean(each[1]))
        spread = f" ± {statistics.stdev(found):.2g} over {len(found)} seeds" if len(found) > 1 else ""
        at = " ".join(["at", *arguments(point)]) if point else ""
        print(f"best {sweep.metric}: {statistics.mean(found):.6g}{spread} {at}".rstrip())


def main() -> None:
    """The entry."""
    start(run)
