"""What `-m` ends with: one table of all its runs, seeds apart as a spread, and the same as a CSV."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

COLUMNS = {  # of the table -> metric, digits
    "top-1 %": ("quantized/top1", 2),
    "agreement %": ("quantized/agreement", 2),
    "SQNR dB": ("quantized/sqnr_db", 2),
    "KL nats": ("quantized/kl", 4),
    "confidence": ("quantized/confidence_change", 2),
    "bits": ("bits/mean", 2),
    "MiB": ("bits/size_mib", 2),
}
UNLABELLED = ("KL nats", "confidence")  # shown where a run has no top-1
CLOCKS_S = 2  # that a file server may be behind
begun: list[tuple[Path, float]] = []  # the folder of the multirun that this process has begun, and when


class Noted(Callback):
    """Tells `summarised` where the runs of a multirun lie."""

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        begun[:] = [(Path(config.hydra.sweep.dir), time.time())]


@contextmanager
def summarised() -> Iterator[None]:
    """After what is many runs, the table of those that ended, also where one failed."""
    try:
        yield
    finally:
        for folder, since in begun:
            summarise(folder, since)
        begun.clear()


def summarise(folder: Path, since: float) -> None:
    """Print the table of a multirun's records, and write its summary.csv.

    since: when it began, in seconds since the epoch; what an earlier one left in the same folder is not its own.
    """
    from attnround.errors import InputError
    from attnround.experiment.schema import read_run
    from attnround.files import write_atomically
    from attnround.study.gather import LINE, line_of
    from attnround.table import csv_text, text_table

    own = [path for path in folder.glob("*/record.json") if path.stat().st_mtime >= since - CLOCKS_S]
    found = {}
    for path in own:
        try:
            found[path.parent.name] = read_run(path, LINE)
        except InputError as error:  # a run of another task, or what is no record any more
            print(f"left out of the table: {error}", file=sys.stderr)
    runs = {name: found[name] for name in sorted(found, key=_number) if "quantized/agreement" in found[name]["metrics"]}
    if not runs:
        return
    lines: list[dict[str, object]] = []
    alike: dict[str, list[dict]] = {}
    for (name, record), own in zip(runs.items(), told(list(runs.values())), strict=True):
        lines.append({"run": name} | own | line_of(record))
        alike.setdefault(in_words(own), []).append(record["metrics"])
    write_atomically(folder / "summary.csv", csv_text(lines))
    columns = columns_of([record["metrics"] for record in runs.values()])
    rows = [[label, len(some), *_cells(some, columns)] for label, some in alike.items()]
    print("\n" + text_table(["", "runs", *columns, "seconds"], rows))
    print(f"\n{'summary':12} {folder / 'summary.csv'}")


def columns_of(metrics: Sequence[dict]) -> list[str]:
    """The columns of these runs: top-1 where one has it, and what else compares with FP32 where one has not."""
    has_top1 = {"quantized/top1" in each for each in metrics}
    hidden = ([] if True in has_top1 else ["top-1 %"]) + ([] if False in has_top1 else list(UNLABELLED))
    return [name for name in COLUMNS if name not in hidden]


def in_words(own: dict[str, object]) -> str:
    """What `told` says of a record, such as `quantizer=gptq bits.bit_width=3`."""
    return " ".join(f"{name}={value}" for name, value in own.items() if value != "") or "all"


def told(records: Sequence[dict]) -> list[dict[str, object]]:
    """What tells each record from the others: group -> choice, option -> value, "" where one has no such option.

    Seeds aside. Of a group whose choice differs, the choice alone.
    """
    from attnround.experiment.identity import computing, leaves

    choices = [{group: choice for group, choice in each["choices"].items() if choice is not None} for each in records]
    chosen = _differing(choices)
    options = [dict(leaves(computing(each["config"]))) for each in records]
    for each in options:
        for name in [name for name in each if name.split(".")[0] in chosen or name.split(".")[-1] == "seed"]:
            del each[name]
    names = [*chosen, *_differing(options)]
    of_each = [one | other for one, other in zip(choices, options, strict=True)]
    return [{name: each.get(name, "") for name in names} for each in of_each]


def _differing(given: Sequence[dict]) -> list[str]:
    """Keys whose values are not the same in all."""
    keys = dict.fromkeys(key for each in given for key in each)
    return [key for key in keys if len({str(each.get(key)) for each in given}) > 1]


def _cells(some: Sequence[dict], columns: Sequence[str]) -> Iterator[str | None]:
    from attnround.study.tables.columns import seconds

    for metric, digits in (COLUMNS[name] for name in columns):
        yield _spread([float(each[metric]) for each in some if metric in each], digits)
    yield _spread([taken for each in some if (taken := seconds(each)) is not None], 1)


def _spread(values: Sequence[float], digits: int) -> str | None:
    """Mean, and the standard deviation where there are several.

    >>> _spread([93.1, 93.3], 2), _spread([4.0], 1), _spread([], 1)
    ('93.20 ± 0.14', '4.0', None)
    """
    from attnround.study.tables.statistics import spread

    if not values:
        return None
    found = spread(list(values))
    return f"{found.mean:.{digits}f}" + ("" if found.std is None else f" ± {found.std:.{digits}f}")


def _number(name: str) -> tuple[int, str]:
    """Jobs in their order: 2 before 10."""
    return (int(name), "") if name.isdigit() else (10**9, name)
