"""Where this project's own files lie; files as it writes them: whole or not at all, and JSON that any reader takes."""

import contextlib
import fcntl
import hashlib
import io
import json
import math
import os
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attnround.errors import InputError

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parents[1] if (PACKAGE.parents[1] / "conf/train.yaml").exists() else None  # None: installed
SHIPPED = CHECKOUT or PACKAGE  # conf/ and assets/ lie here: at the top of the repository, or inside the package
WITHOUT_LABELS = ("trials.json", "reconstruction.pt")  # in a run's folder: what its stages but training go on from
CHECKPOINTS = (*WITHOUT_LABELS, "qat/last.ckpt")  # in a run's folder: what it goes on from
NON_FINITE = ("Infinity", "-Infinity", "NaN")  # as JSON holds them, see `json_text`


def has_checkpoint(folder: Path) -> bool:
    """Whether a run had come to something that it can go on from."""
    return any((folder / name).exists() for name in CHECKPOINTS)


def json_text(content: object, indent: int | None = None) -> str:
    """JSON, in which a number that JSON does not have stands as a text: "Infinity", "-Infinity" or "NaN".

    Source: the JSON mapping of Protocol Buffers. Python's float() reads these texts. A byte of a file's name that is no
    letter stands as \\udce9 or the like.

    >>> json_text({"sqnr_db": float("inf"), "losses": [0.5, float("nan")]})
    '{"sqnr_db": "Infinity", "losses": [0.5, "NaN"]}'
    """
    return json.dumps(_as_json(content), indent=indent, allow_nan=False)


def sealed_json(content: object, indent: int) -> str:
    """The JSON of a dictionary, with a checksum of what a reader finds in it, `digest`."""
    found = json.loads(json_text(content))
    return json_text(found | {"digest": digest_of(found)}, indent) + "\n"


def digest_of(content: object) -> str:
    """sha256 of what a file of JSON says, its `digest` aside."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _as_json(content: object) -> object:
    if isinstance(content, dict):
        return {_as_json(key): _as_json(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_as_json(value) for value in content]
    if isinstance(content, str):
        return content.encode(errors="backslashreplace").decode()
    return json.dumps(content) if isinstance(content, float) and not math.isfinite(content) else content


def json_floats(content: object) -> object:
    """What `json_text` wrote, read from JSON, with its numbers as such again.

    >>> json_floats({"sqnr_db": "Infinity", "losses": [0.5, "NaN"], "device": "cpu"})
    {'sqnr_db': inf, 'losses': [0.5, nan], 'device': 'cpu'}
    """
    if isinstance(content, dict):
        return {key: json_floats(value) for key, value in content.items()}
    if isinstance(content, list):
        return [json_floats(value) for value in content]
    return float(content) if content in NON_FINITE else content


def python_path() -> str:
    """PYTHONPATH for another process, which then finds the package where it is not installed too."""
    there = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join(dict.fromkeys([*there, str(PACKAGE.parent)]))


def quoted(path: str | Path) -> str:
    """A path as the grammar of Hydra's command line takes it."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Within, no other process has this lock, which is gone with the process, however that ends.

    Raises BlockingIOError where another has it and `wait` is False.
    """
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within, no other process that asks the same may write into the folder, which must be there.

    Raises InputError where another does.
    """
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(locked(folder / ".lock", wait=False))
        except BlockingIOError as error:
            raise InputError(f"{folder}: another run is writing there: wait for it, or give another folder") from error
        yield


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file or none: no reader sees a part of it, whoever writes it too; a full disk leaves nothing.

    A symbolic link stays one: the file that it leads to is written.
    """
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{path.name[:50]}.{uuid.uuid4().hex}.part")  # of this writer alone
    try:
        with part.open("wb") as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def load_checked(path: Path) -> Any:
    """What torch saved, if the checksums of its archive hold, at which torch itself does not look.

    Raises ValueError where they do not, and what the damage happens to hit.
    """
    import torch

    raw = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(raw) as archive:
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"{damaged} is damaged")
    raw.seek(0)
    return torch.load(raw, map_location="cpu", weights_only=True)
