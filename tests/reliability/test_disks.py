"""A disk that is full: nothing half-written is left, and a record only if all that it names is there."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.reliability import small

SIZES = (0, 64, 256, 512, 640, 768)  # KiB beside a page of the folder


def mounted(place: Path, *options: str) -> None:
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


def left_behind(folder: Path) -> str | None:
    """What a run that failed should not have left."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    parts = [path.name for path in files if path.name.endswith(".part")]
    empty = [path.name for path in files if not path.stat().st_size]
    if parts or empty:
        return f"left {[*parts, *empty]}"
    if (folder / "record.json").exists():
        named = json.loads((folder / "record.json").read_text())["deployed"]
        if (folder / named["file"]).stat().st_size != named["bytes"] or not (folder / "model_card.md").exists():
            return "a record of what is not there"
    return None


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(tmp_path, tally):
    images, faults = small.pictures(tmp_path / "images"), []
    for size in SIZES:
        disk = tmp_path / "disk"
        mounted(disk, "-o", f"size={size + 4}k")
        try:
            try:
                small.quantize(disk / "run", images)
                failed = False
            except OSError:
                failed = True
            fault = left_behind(disk / "run") if failed else None
            faults.append(fault and f"{size} KiB: {fault}")
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    tally("full disks", faults)
