"""Run a W&B sweep file here, without a server, and draw what it found.

python src/sweep.py sweeps/sigma.yaml
python src/sweep.py sweeps/sigma.yaml hydra/launcher=joblib model=mobilenetv2_050 hydra.sweep.dir=outputs/mine
"""

import json
import sys
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from entry import in_a_line, perform, start
from launching import LOGGED_ONLY, compose, launch


def main() -> None:
    """Run what is not there yet of the sweep; write its CSV and its picture."""
    from attnround.errors import InputError
    from attnround.results.sweep import points, read_sweep

    files = [each for each in sys.argv[1:] if "=" not in each]
    given = [each for each in sys.argv[1:] if "=" in each]
    if len(files) != 1 or files[0].startswith("-"):
        raise InputError("give one W&B sweep file, such as sweeps/sigma.yaml, and then options as key=value")
    sweep = read_sweep(Path(files[0]))
    launcher = [each for each in given if each.startswith(("hydra/launcher=", "hydra.launcher."))]
    place = [each.partition("=")[2] for each in given if each.startswith("hydra.sweep.dir=")]
    folder = Path(place[-1] if place else f"outputs/sweeps/{sweep.name}")
    more = [each for each in given if not each.startswith("hydra")]
    runs = {}
    for point in points(sweep):
        overrides = _overrides(sweep, point, more)
        runs[_identity(files[0], overrides)] = point, overrides
    todo = {name: overrides for name, (_, overrides) in runs.items() if _record(folder / name, name) is None}
    kind = "grid" if sweep.method == "grid" else "random search"
    if sweep.method == "bayes":
        kind += " (bayes takes W&B's server, which would learn from run to run)"
    print(f"{sweep.name}: {kind}, {len(runs)} runs, {len(runs) - len(todo)} of them done; to {folder}", flush=True)
    faults = launch(todo, run_one, folder, [*launcher, *LOGGED_ONLY])
    _report(sweep, {name: point for name, (point, _) in runs.items()}, folder, faults)
    for name, line in faults.items():
        print(f"failed: {' '.join(runs[name][1])}: {line}", file=sys.stderr)
    if faults:
        sys.exit(f"error: {len(faults)} of {len(runs)} runs failed; the same command runs these again")


def run_one(cfg: DictConfig) -> None:
    """One run, and a line when it is done."""
    from hydra.core.hydra_config import HydraConfig

    perform(cfg)
    print("done:", " ".join(HydraConfig.get().overrides.task), flush=True)


def _overrides(sweep: object, point: dict[str, object], more: list[str]) -> list[str]:
    """What all runs share, then the point's, then what was given here; of an option that is named twice the last."""
    from attnround.results.sweep import arguments

    named = {}
    for each in (*sweep.shared, *arguments(point), *more):
        key = each.partition("=")[0]
        named.pop(key, None)
        named[key] = each
    return list(named.values())


def _identity(file: str, overrides: list[str]) -> str:
    """The hash of a run's config, by which it is found again."""
    from attnround.errors import InputError
    from attnround.results.record import config_hash

    try:
        config, _ = compose(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"{file}: the run {' '.join(overrides)} does not compose: {in_a_line(error)}") from error
    return config_hash(OmegaConf.to_container(config, resolve=False))


def _record(folder: Path, name: str) -> dict | None:
    """The record of a finished run; None where there is none, or one that is cut off."""
    try:
        record = json.loads((folder / "record.json").read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("config_hash") == name else None


def _report(sweep: object, runs: dict[str, dict], folder: Path, faults: dict[str, str]) -> None:
    from attnround.errors import InputError
    from attnround.results.gather import METRICS
    from attnround.results.pictures.sweep import draw_sweep
    from attnround.results.record import write_atomically
    from attnround.results.sweep import arguments
    from attnround.results.table import csv_text

    records = {name: _record(folder / name, name) for name in runs}
    metrics = {name: record["metrics"] for name, record in records.items() if record}
    unknown = [each for each in metrics.values() if sweep.metric not in each]
    if unknown:
        raise InputError(f"metric.name={sweep.metric} is none of {', '.join(unknown[0])}; the runs are in {folder}")
    rows = []
    for name, point in runs.items():
        of_run = {key: f"{value:.6g}" for key, value in metrics.get(name, {}).items()}
        row = point | {key: of_run.get(key, "") for key in dict.fromkeys((sweep.metric, *METRICS))}
        revision = records[name]["git_revision"] if records[name] else ""
        rows.append(row | {"config_hash": name, "git_revision": revision, "error": faults.get(name, "")})
    target = folder / f"{sweep.name}.csv"
    write_atomically(target, csv_text(rows))
    print(f"rows: {target}")
    values = [(runs[name], of_run[sweep.metric]) for name, of_run in metrics.items()]
    if values:
        for end in (".png", ".svg"):
            draw_sweep(sweep, values, target.with_suffix(end))
        best = (max if sweep.goal == "maximize" else min)(values, key=lambda each: each[1])
        print(f"picture: {target.with_suffix('.png')}, .svg")
        print(f"best {sweep.metric}: {best[1]:.6g} at {' '.join(arguments(best[0]))}")


if __name__ == "__main__":
    start(main)
