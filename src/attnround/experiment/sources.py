"""The files that options name, by their content: a path says nothing of what lies there now."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from attnround.experiment.identity import computing, leaves


def sources_of(config: Mapping[str, object]) -> dict[str, str]:
    """Option -> sha256 of the file that it names, of those options that a result depends on.

    Such as an allocation, a checkpoint, a map of classes, or `nets.py:build`, and `nets:build` where nets.py lies in
    the working directory. Folders are not looked into. config: with its interpolations unresolved: what they name
    travels with the project.
    """
    files = {path: _file(value) for path, value in leaves(computing(config)) if isinstance(value, str)}
    return {path: _digest(file, file.stat().st_mtime_ns, file.stat().st_size) for path, file in files.items() if file}


def with_sources(identity: str, sources: Mapping[str, str]) -> str:
    """The identity of what a run leaves to go on from, which is of these files too."""
    if not sources:
        return identity
    return f"{identity}-{hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:12]}"


def _file(value: str) -> Path | None:
    place = value.rpartition(":")[0]
    module = f"{place.replace('.', '/')}.py" if place and "/" not in place else ""
    for path in (value, place, module):
        try:
            if Path(path).suffix and Path(path).is_file():
                return Path(path)
        except (OSError, ValueError):  # too long, or of letters that no path has
            pass
    return None


@functools.cache
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    """mtime_ns, size: so that a file which changed is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
