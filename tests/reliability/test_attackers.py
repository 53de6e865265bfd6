"""Files made to do harm, given to every reader: refused in a line, and nothing of theirs is run."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attnround.errors import InputError
from tests.reliability.kinds import kinds

KINDS = kinds()
MARK = "run.mark"  # a folder that appears where a file's code was run


class Payload:
    """What a pickle of it does when it is loaded."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (MARK,)


def archive(name: str, content: bytes) -> bytes:
    """A zip as torch writes it, with this in place of its pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(f"archive/{name}", content)
        made.writestr("archive/version", "3\n")
        made.writestr("archive/byteorder", "little")
    return file.getvalue()


def saved() -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": Payload()}, file)
    return file.getvalue()


HARM: dict[str, Callable[[], bytes]] = {
    "a pickle with code": lambda: pickle.dumps(Payload()),
    "torch's archive with code": saved,
    "an archive of 256 MiB in 256 KiB": lambda: archive("data.pkl", bytes(2**28)),
    "YAML with code": lambda: f"a: !!python/object/apply:os.mkdir [{MARK}]\n".encode(),
    "YAML of 10^9 entries": lambda: b"".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 10)}]\n".encode() for i in range(9)
    ),
    "JSON nested 100,000 deep": lambda: b"[" * 100_000 + b"]" * 100_000,
    "a number of 10,000 digits": lambda: b'{"a": ' + b"9" * 10_000 + b"}",
    "a header of 2^60 bytes": lambda: (2**60).to_bytes(8, "little") + b'{"a": 1}',
    "a path for a name": lambda: b'{"../../etc/passwd": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
}


def fault(read: Callable[[Path], object], path: Path) -> str | None:
    """What was not as it should be, when this file was read."""
    try:
        read(path)
    except InputError as error:
        said = "of several lines" if "\n" in str(error) else None
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    else:
        said = "taken"
    return "its code was run" if Path(MARK).exists() else said


@pytest.mark.slow
def test_nothing_in_a_file_is_run(tmp_path, monkeypatch, tally):
    monkeypatch.chdir(tmp_path)
    files = {harm: make() for harm, make in HARM.items()}
    for name, kind in ((name, make()) for name, make in KINDS.items()):
        path, faults = tmp_path / f"file{kind.suffix}", []
        for harm, content in files.items():
            path.write_bytes(content)
            found = fault(kind.read, path)
            faults.append(found and f"{name}: {harm}: {found}")
        tally("files made to do harm", faults)
