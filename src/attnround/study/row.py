"""A row: what is kept of one run, in a file of its own, so that nothing needs a lock and nothing is lost."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from attnround.errors import InputError, listed
from attnround.experiment.identity import computing, identity
from attnround.experiment.record import device_of, pack, provenance, unpack
from attnround.experiment.schema import RIGHT, Nothing, read_run
from attnround.experiment.sources import sources_of
from attnround.files import digest_of, json_floats, sealed_json, write_atomically
from attnround.typed import Number, check, parsed

ROW = {
    "config_hash": str, "command": str, "choices": {str: (str, Nothing)}, "seed": int, "error": (str, Nothing),
    "metrics": {str: Number}, "correct": {str: RIGHT}, "device": str, "num_threads": int, "git_revision": str,
    "date": str, "config": {"data?": {}}, "versions": {str: str}, "sources?": {str: str},
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One run of `config`, whose interpolations are unresolved: then it is the same on every machine.

    error: one line where the run failed, which then has no metrics; correct: name (fp32, quantized) -> bool [images],
    which of the test images were classified right; sources: as `sources_of` has them; its file has none where they are
    none.
    """

    config_hash: str
    command: str
    choices: dict[str, str]
    seed: int
    error: str | None
    metrics: dict[str, float]
    correct: dict[str, np.ndarray]
    device: str
    num_threads: int
    git_revision: str
    date: str
    config: dict
    versions: dict[str, str]
    sources: dict[str, str] = field(default_factory=dict)


def row_of(record: dict, source: dict, command: str) -> Row:
    """What is kept of a run with this record. source: its config as written."""
    of_record = {name: record[name] for name in ("config_hash", "choices", "seed", "num_threads", "date")}
    return Row(
        **of_record,
        metrics=json_floats(record["metrics"]),
        command=command,
        error=None,
        correct=_unpacked(record["evaluation"]["correct"]),
        device=device_of(record),
        git_revision=record["git_revision"],
        versions=record["versions"],
        config=computing(source),
        sources=record.get("sources", {}),
    )


def recorded_row(place: Path, source: dict, command: str) -> Row:
    """`row_of` the record in a run's folder. Raises InputError where that is not as it should be."""
    record = read_run(place / "record.json", {"evaluation": {"correct": {str: RIGHT}}, "sources?": {str: str}})
    try:
        return row_of(record, source, command)
    except ValueError as error:  # what was right is packed
        raise InputError(f"{place / 'record.json'}: evaluation.correct is {error}; run it again") from error


def failed_row(source: dict, choices: dict[str, str], command: str, error: str, root: Path) -> Row:
    """What is kept of a run of this config that failed. root: of the project."""
    about = provenance(root)
    return Row(
        config_hash=identity(source, choices),
        command=command,
        choices=choices,
        seed=source["seed"],
        error=error,
        metrics={},
        correct={},
        device=about["processor"],
        num_threads=0,
        git_revision=about["git_revision"],
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        config=computing(source),
        versions=about["versions"],
        sources=sources_of(source),
    )


def write_row(row: Row, folder: Path) -> None:
    """Into a file that its config's hash names, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    content = asdict(row) | {"correct": {name: pack(right) for name, right in row.correct.items()}}
    if not row.sources:
        del content["sources"]
    write_atomically(folder / f"{row.config_hash}.json", sealed_json(content, indent=1))


def read_row(path: Path) -> Row:
    """Raises ValueError where the file is not as it was written."""
    content = parsed(path.read_bytes(), bare=True)  # as rows were once written
    if not isinstance(content, dict) or {*content, "sources"} != {each.name for each in fields(Row)} | {"digest"}:
        raise ValueError("not a row")
    check(content, ROW)
    if (
        content.pop("digest") != digest_of(content)
        or identity(content["config"], content["choices"]) != content["config_hash"]
    ):
        raise ValueError("edited")
    return Row(**content | {"metrics": json_floats(content["metrics"]), "correct": _unpacked(content["correct"])})


def read_rows(folder: Path, hashes: Iterable[str] | None = None) -> dict[str, Row]:
    """Config hash -> row, of all rows in a folder or of those that are there. Raises InputError naming all bad ones."""
    paths = sorted(folder.glob("*.json")) if hashes is None else [folder / f"{each}.json" for each in hashes]
    rows, bad = {}, []
    for path in paths:
        try:
            if path.exists():
                rows[path.stem] = read_row(path)
        except (ValueError, OSError):
            bad.append(str(path))
    if bad:
        raise InputError(f"{listed(bad)}: cut off or edited by hand; remove it, and it is run again")
    return rows


def _unpacked(correct: dict[str, dict]) -> dict[str, np.ndarray]:
    return {name: unpack(packed) for name, packed in correct.items()}
