"""The photographs that travel with the project, and the list of those that do not."""

import csv
import struct
import zlib
from pathlib import Path

import pytest
from benchmarks import photographs
from PIL import Image

from tests.conftest import ROOT

PHOTOS = ROOT / "assets/photos"
NUM_CLASSES = 1000


def files(folder: str) -> set[str]:
    return {f"{folder}/{path.name}" for path in (PHOTOS / folder).iterdir() if path.suffix != ".csv"}


def test_every_photograph_has_a_licence_that_lets_it_travel():
    with (PHOTOS / "LICENCES.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert sorted(line["file"] for line in lines) == sorted(files("calibration") | files("evaluation"))
    for line in lines:
        assert line["licence"] in ("public domain", "CC0-1.0"), line
        assert line["title"], line
        assert line["author"], line
        assert line["source"].startswith("https://"), line


def test_what_is_evaluated_on_has_labels_and_its_size_suits_a_repository():
    with (PHOTOS / "evaluation/labels.csv").open(newline="") as file:
        labels = {f"evaluation/{name}": [int(each) for each in given] for name, *given in csv.reader(file)}
    assert labels.keys() == files("evaluation")
    assert all(given and all(0 <= each < NUM_CLASSES for each in given) for given in labels.values())
    assert sum(path.stat().st_size for path in PHOTOS.rglob("*")) < 4.5e6


@pytest.mark.parametrize("folder", ["calibration", "evaluation"])
def test_photographs_can_be_read_and_are_large_enough(folder):
    for file in files(folder):
        with Image.open(PHOTOS / file) as image:
            image.load()
            assert image.mode == "RGB", file
            assert min(image.size) >= 150, file
            assert max(image.size) <= 800, file


def test_the_larger_list_is_whole():
    listed = photographs.read_list()
    assert len({each.file for each in listed}) == len({each.source for each in listed}) == len(listed)
    for each in listed:
        assert each.set in ("calibration", "evaluation")
        assert bool(each.labels) == (each.set == "evaluation"), each
        assert all(0 <= label < NUM_CLASSES for label in each.labels), each


def test_the_labels_that_travel_are_those_of_the_list():
    listed = {each.file: each.labels for each in photographs.read_list()}
    with (PHOTOS / "evaluation/labels.csv").open(newline="") as file:
        for name, *given in csv.reader(file):
            assert listed[name] == tuple(map(int, given))


def resource_file(content: dict[str, bytes]) -> bytes:
    """A Qt resource file of version 3 with these files below the folder `in`, every second one compressed."""
    names, data, entries = b"", b"", []

    def named(name: str) -> int:
        nonlocal names
        at = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        return at

    date = bytes(8)
    entries = [struct.pack(">IHII", 0, 2, 1, 1) + date, struct.pack(">IHII", named("in"), 2, len(content), 2) + date]
    for number, (name, raw) in enumerate(content.items()):
        stored = struct.pack(">I", len(raw)) + zlib.compress(raw) if number % 2 else raw
        entries.append(struct.pack(">IHII", named(name), number % 2, 1 << 16, len(data)) + date)
        data += struct.pack(">I", len(stored)) + stored
    tree = b"".join(entries)
    places = (20 + len(data) + len(names), 20, 20 + len(data))
    return struct.pack(">4s4I", b"qres", 3, *places) + data + names + tree


@pytest.fixture
def packages(tmp_path, monkeypatch) -> Path:
    """An unpacked pair of packages with three pictures, and the list of them."""
    lines = ["source,file,set,labels", "a.rcc/in/x.webp,x.webp,calibration,", "a.rcc/in/ü.webp,u.webp,evaluation,3 5"]
    lines.append("stamps/s.png,s.png,evaluation,7")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    monkeypatch.setattr(photographs, "LIST", tmp_path / "list.csv")
    root = tmp_path / "root"
    (root / "stamps").mkdir(parents=True)
    (root / "stamps/s.png").write_bytes(b"stamp")
    (root / "a.rcc").write_bytes(resource_file({"x.webp": b"one", "ü.webp": b"two" * 99, "other.svg": b"no"}))
    return root


def test_photographs_are_laid_out_as_they_are(packages, tmp_path):
    photographs.main(str(packages), str(tmp_path / "out"))
    found = {
        str(path.relative_to(tmp_path / "out")): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == {
        "calibration/x.webp": b"one",
        "evaluation/u.webp": b"two" * 99,
        "evaluation/s.png": b"stamp",
        "evaluation/labels.csv": b"u.webp,3,5\ns.png,7\n",
    }


def test_packages_that_lack_a_picture_are_told_by_their_versions(packages, tmp_path):
    (packages / "stamps/s.png").unlink()
    with pytest.raises(SystemExit, match=r"1 of 3 are not in .*stamps/s\.png: it needs gcompris-qt-data 3\.1-2 and"):
        photographs.main(str(packages), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
