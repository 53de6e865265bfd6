"""Lay out the photographs on which real networks are measured: to calibrate with, and labelled ones to evaluate on.

apt-get download gcompris-qt-data tuxpaint-stamps-default
python benchmarks/photographs.py . outputs/photographs
python src/train.py model=lite0 data=photos data.root=outputs/photographs/calibration \
  data.evaluation=outputs/photographs/evaluation

The first argument is a folder with the two packages' files, or one into which they are unpacked, such as / where they
are installed. photographs.csv beside this script says which of their pictures are taken: all that are photographs, at
least 150 pixels long and 100 wide, without copies. Those that show something for which ImageNet has a class are
evaluated on, with every class that is right for them; they were labelled by eye, before any network had seen them. The
pictures have licences of many kinds, which the packages name, and are copied as they are.
"""

import csv
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LIST = Path(__file__).with_suffix(".csv")
PACKAGES = {"gcompris-qt-data": "3.1-2", "tuxpaint-stamps-default": "2022.06.04-1"}  # the versions that the list is of
ARCHIVE = ".rcc"  # Qt's binary resources, many files in one
ZLIB, ZSTD, FOLDER = 1, 4, 2  # flags of an entry of one


class Photograph(NamedTuple):
    """A line of the list. source: path in the unpacked packages, in which a resource file counts as a folder."""

    source: str
    file: str
    set: str
    labels: tuple[int, ...]


def read_list() -> list[Photograph]:
    """All lines, in their order."""
    with LIST.open(newline="") as file:
        return [Photograph(*values, tuple(map(int, labels.split()))) for *values, labels in list(csv.reader(file))[1:]]


def resources(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """The path and content of every file in a resource file as Qt's `rcc --binary` writes it."""
    magic, version, tree, data, names = struct.unpack_from(">4s4I", raw)
    if magic != b"qres":
        raise ValueError("this is no Qt resource file")
    entry_size = 14 if version == 1 else 22  # later ones have a date

    def walk(number: int, above: str) -> Iterator[tuple[str, bytes]]:
        at = tree + number * entry_size
        name_at, flags, first, second = struct.unpack_from(">IHII", raw, at)
        (length,) = struct.unpack_from(">H", raw, names + name_at) if number else (0,)
        start = names + name_at + 6  # behind its length and hash
        path = above + raw[start : start + 2 * length].decode("utf-16-be")
        if flags & FOLDER:
            for child in range(second, second + first):
                yield from walk(child, f"{path}/" if number else "")
            return
        begin = data + second  # first is the language here
        (size,) = struct.unpack_from(">I", raw, begin)
        content = raw[begin + 4 : begin + 4 + size]
        if flags & ZSTD:
            raise ValueError(f"{path} is compressed by zstd, which no version that the list is of does")
        yield path, zlib.decompress(content[4:]) if flags & ZLIB else content

    yield from walk(0, "")


def read_all(root: Path, sources: set[str]) -> dict[str, bytes]:
    """source -> content, of those that are there."""
    found = {source: (root / source).read_bytes() for source in sources if (root / source).is_file()}
    for archive in {source.split(ARCHIVE)[0] + ARCHIVE for source in sources if ARCHIVE in source}:
        if (root / archive).is_file():
            inside = resources((root / archive).read_bytes())
            found |= {f"{archive}/{path}": content for path, content in inside if f"{archive}/{path}" in sources}
    return found


def lay_out(root: Path, target: Path) -> None:
    """Write calibration/, evaluation/ and evaluation/labels.csv. Exits with a line where a picture is missing."""
    wanted = read_list()
    contents = read_all(root, {each.source for each in wanted})
    missing = [each.source for each in wanted if each.source not in contents]
    if missing:
        versions = " and ".join(f"{name} {version}" for name, version in PACKAGES.items())
        sys.exit(f"error: {len(missing)} of {len(wanted)} are not in {root}, such as {missing[0]}: it needs {versions}")
    for each in wanted:
        path = target / each.set / each.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[each.source])
    lines = [f"{each.file},{','.join(map(str, each.labels))}\n" for each in wanted if each.set == "evaluation"]
    (target / "evaluation/labels.csv").write_text("".join(lines))
    print(f"{len(wanted) - len(lines)} to calibrate with and {len(lines)} to evaluate on, in {target}")


def main(packages: str, target: str) -> None:
    """Unpack what is to be unpacked, in a folder that goes away."""
    files = [path for name in PACKAGES for path in sorted(Path(packages).glob(f"{name}_*.deb"))]
    if not files:
        lay_out(Path(packages), Path(target))
        return
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            subprocess.run(["dpkg-deb", "--extract", str(file), folder], check=True)
        lay_out(Path(folder), Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
