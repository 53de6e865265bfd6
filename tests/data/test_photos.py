"""Folders of photographs without labels: who calibrates, who is evaluated on, and what is said of odd files."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from tests.conftest import ROOT

from attnround.data import Photos
from attnround.data.near_copies import groups_of, thumbnail
from attnround.errors import InputError

SETTINGS = {
    "input_size": (3, 32, 32), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.9,
    "crop_mode": "center",
}  # fmt: skip


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture of large shapes with some detail, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    shapes = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    detail = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.blend(shapes, detail, 0.2)


def folder(root: Path, number: int, first: int = 0) -> Path:
    """So many scenes, at two depths."""
    (root / "deep/er").mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + number):
        scene(seed).save(root / ("deep/er" if seed % 2 else ".") / f"{seed}.png")
    return root


def photos(root: Path, num_classes: int = 10, **settings) -> Photos:
    module = Photos(str(root), **({"num_workers": 0} | settings))
    module.match(SETTINGS, num_classes)
    return module


def sides(module: Photos) -> tuple[list[str], list[str]]:
    """Names of the files that calibrate, and of those that are evaluated on."""
    return [module.own.files[place] for place in module.calibration().indices], module.evaluated.files


def test_half_calibrates_and_the_other_half_is_evaluated_on_without_labels(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        module = photos(folder(tmp_path, 12))
    calibrating, evaluated = sides(module)
    assert (len(calibrating), len(evaluated)) == (6, 6)
    assert set(calibrating).isdisjoint(evaluated)
    assert set(calibrating) | set(evaluated) == set(module.own.files)
    assert f"6 images of {tmp_path} calibrate, 6 others are evaluated on, without labels" in caplog.text
    assert not module.has_labels
    (batch,) = module.val_dataloader()
    assert batch[0].shape == (6, 3, 32, 32)
    assert batch[1] is None


@pytest.mark.parametrize("limit", [None, 3])
def test_pixels_are_what_the_files_hold_beside_what_the_model_takes(tmp_path, limit):
    module = photos(folder(tmp_path, 12), limit=limit)
    taken, decoded = zip(*module.pixels(), strict=True)
    (batch,) = module.val_dataloader()
    assert torch.equal(torch.cat(taken), batch[0])
    assert len(decoded) == (limit or 6)
    assert {(each.dtype, tuple(each.shape)) for each in decoded} == {(torch.uint8, (1, 120, 160, 3))}
    held = [np.asarray(Image.open(tmp_path / name)) for name in module.evaluated.files]
    assert all(any(np.array_equal(each[0], image) for image in held) for each in decoded)


def test_the_seed_draws_and_a_larger_draw_holds_the_smaller(tmp_path):
    folder(tmp_path, 12)
    one, again, other = (sides(photos(tmp_path, seed=seed)) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    few, _ = sides(photos(tmp_path, num_calibration=3))
    many, left = sides(photos(tmp_path, num_calibration=9))
    assert few == many[:3]
    assert (len(many), len(left)) == (9, 3)


def test_the_images_are_those_of_the_files_named(tmp_path):
    module = photos(folder(tmp_path, 6))
    calibration = module.calibration()
    for image, place in zip(calibration.images, calibration.indices, strict=True):
        opened = Image.open(tmp_path / module.own.files[place]).convert("RGB")
        assert torch.equal(image, module.transform(opened))
    assert calibration.source == f"{tmp_path} (6 files)"


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "copy": lambda image: image,
    "resized": lambda image: image.resize((70, 52)),
    "cropped": lambda image: image.crop((3, 2, 160, 120)),  # 2 % of two edges
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
}


def with_copies(root: Path) -> Path:
    """Ten scenes, and near copies of the first four under names that tell."""
    folder(root, 10)
    for seed in range(4):
        for name, edit in EDITS.items():
            edit(scene(seed)).save(root / f"{seed}-{name}.jpg", quality=60)
    return root


@pytest.mark.parametrize("seed", range(5))
def test_near_copies_are_never_on_both_sides(tmp_path, seed):
    module = photos(with_copies(tmp_path), seed=seed)
    calibrating, evaluated = ({Path(name).stem.split("-")[0] for name in side} for side in sides(module))
    assert calibrating
    assert evaluated
    assert calibrating.isdisjoint(evaluated)


def test_near_copies_are_said_and_come_before_what_reconstruction_holds_out(tmp_path, caplog):
    module = photos(with_copies(tmp_path))
    line = f"{4 * len(EDITS)} of 26 images are near copies of others, and stay with them: 0-cropped.jpg of 0-copy.jpg"
    assert line in caplog.text
    calibration = module.calibration()
    assert any(each.startswith(line) for each in calibration.provenance()["remarks"])
    names = [Path(module.own.files[place]).stem.split("-")[0] for place in calibration.indices]
    copies = [names.count(name) for name in names]
    assert copies == sorted(copies, reverse=True)
    assert copies[0] > copies[-1] == 1


def test_near_copies_beyond_the_number_are_neither(tmp_path, caplog):
    with_copies(tmp_path)
    found = set()
    with caplog.at_level(logging.INFO):
        for seed in range(6):
            caplog.clear()
            calibrating, evaluated = sides(photos(tmp_path, seed=seed, num_calibration=1))
            spare = 26 - len(calibrating) - len(evaluated)
            found.add(spare)
            assert (f"; {spare} near copies of the former do neither" in caplog.text) == (spare > 0)
    assert found == {0, len(EDITS)}


def test_a_chain_of_frames_is_one_group_and_scenes_are_none():
    scenes = [scene(seed) for seed in range(60)]
    assert len(set(groups_of(torch.stack([thumbnail(each) for each in scenes])))) == 60
    frames = [scenes[0].crop((shift, 0, shift + 120, 120)) for shift in range(0, 40, 2)]
    assert set(groups_of(torch.stack([thumbnail(each) for each in frames]))) == {0}
    assert groups_of(torch.stack([thumbnail(frames[0]), thumbnail(scenes[1]), thumbnail(frames[-1])])) == [0, 1, 2]
    plain = [Image.new("RGB", (40, 40), colour) for colour in ("white", "black")]
    assert groups_of(torch.stack([thumbnail(each) for each in (scenes[0], *plain)])) == [0, 1, 1]


def test_another_folder_is_evaluated_on_and_all_of_root_calibrates(tmp_path):
    one, other = folder(tmp_path / "one", 6), folder(tmp_path / "other", 5, first=50)
    module = photos(one, evaluation=str(other))
    calibrating, evaluated = sides(module)
    assert (len(calibrating), len(evaluated)) == (6, 5)
    assert module.evaluated.root == other
    assert len(photos(one, evaluation=str(other), limit=2).evaluation) == 2


def test_what_is_evaluated_on_does_not_calibrate_also_under_another_name(tmp_path, caplog):
    root = folder(tmp_path / "all", 6)
    other = folder(root / "chosen", 3, first=50)
    scene(0).resize((80, 60)).save(other / "again.jpg")
    calibrating, evaluated = sides(photos(root, evaluation=str(other)))
    assert sorted(calibrating) == ["2.png", "4.png", *(f"deep/er/{seed}.png" for seed in (1, 3, 5))]
    assert len(evaluated) == 4
    assert "near copies of others" in caplog.text
    with pytest.raises(InputError, match="has near copies of all images of"):
        photos(root, evaluation=str(root))
    with pytest.raises(
        InputError, match=r"data\.num_calibration=6: .*has 5 images that are no near copies .*give 1 to 5"
    ):
        photos(root, evaluation=str(other), num_calibration=6)


def write_labels(root: Path, text: str, name: str = "labels.csv") -> str:
    (root / name).write_text(text)
    return str(root / name)


def test_labels_beside_the_images_are_taken_several_an_image_too(tmp_path):
    folder(tmp_path, 6)
    write_labels(tmp_path, "file,index\n0.png,3,4\n2.png,1\n4.png,9\ndeep,5\n")
    module = photos(tmp_path)
    assert module.has_labels
    expected = {"0.png": [3, 4], "2.png": [1, -1], "4.png": [9, -1]}
    (batch,) = module.val_dataloader()
    wanted = [expected.get(name, [5, -1]) for name in module.evaluated.files]
    assert batch[1].tolist() == ([row[:1][0] for row in wanted] if batch[1].ndim == 1 else wanted)
    assert not photos(tmp_path, labels=None).has_labels


def test_labels_may_lie_elsewhere(tmp_path):
    root = folder(tmp_path / "root", 4)
    path = write_labels(tmp_path, json.dumps({".": 2}), "mine.json")
    (batch,) = photos(root, labels=path).val_dataloader()
    assert batch[1].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("gone.png,1\n.,2\n", r"data\.labels=\S+ has lines of what is not in \S+: gone\.png$"),
        ("0.png,1\n", r"data\.labels=\S+ has no line for .*\.png"),
        (".,10\n", r"data\.labels=\S+: \. -> \[10\]: give an index from 0 to 9"),
        ("0.png,1\n.,-1\n", r"data\.labels=\S+: \. -> \[.-1.\]: give an index"),
        ("", r"data\.labels=\S+ is empty"),
    ],
)
def test_labels_that_do_not_fit_are_a_line(tmp_path, text, fault):
    write_labels(folder(tmp_path, 6), text)
    with pytest.raises(InputError, match=fault) as caught:
        photos(tmp_path)
    assert "\n" not in str(caught.value)


def test_labels_that_are_asked_for_must_be_there(tmp_path):
    with pytest.raises(InputError, match=r"data\.labels=other\.csv is not there: give a CSV"):
        photos(folder(tmp_path, 4), labels="other.csv")


def test_too_few_images_are_a_line(tmp_path):
    with pytest.raises(InputError, match=r"data\.root=\S+ is not there"):
        photos(tmp_path / "no")
    with pytest.raises(InputError, match="holds no image"):
        photos(tmp_path)
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"none of its 1 images can be read \(bad\.jpg\)"):
        photos(tmp_path)
    scene(0).save(tmp_path / "one.png")
    with pytest.raises(InputError, match="is one image: give others too"):
        photos(tmp_path)
    scene(0).save(tmp_path / "copy.jpg")
    with pytest.raises(InputError, match="has 2 images that all show the same"):
        photos(tmp_path)


def test_a_number_that_leaves_none_to_evaluate_is_a_line(tmp_path):
    with pytest.raises(InputError, match=r"data\.num_calibration=6: .*has 6 images.*give 1 to 5, or data\.evaluation"):
        photos(folder(tmp_path, 6), num_calibration=6)
    assert len(sides(photos(tmp_path, num_calibration=5))[1]) == 1


def test_training_asks_for_classes(tmp_path):
    with pytest.raises(InputError, match="training takes images sorted by their class"):
        photos(folder(tmp_path, 4)).training_sets()


def odd_files(root: Path) -> None:
    """One of each kind that is no plain RGB, upright and whole."""
    scene(100).convert("CMYK").save(root / "cmyk.jpg")
    grey = np.asarray(scene(101).convert("L"), np.uint16) * 257
    Image.fromarray(grey).save(root / "deep.png")
    scene(102).save(root / "moving.gif", save_all=True, append_images=[scene(103)])
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(104).transpose(Image.Transpose.ROTATE_90).save(root / "turned.jpg", exif=exif, quality=95)
    scene(105).save(root / "whole.jpg")
    (root / "cut.jpg").write_bytes((root / "whole.jpg").read_bytes()[:-1500])
    (root / "whole.jpg").unlink()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_odd_files_are_read_and_damaged_ones_named_skipped_and_counted(tmp_path, num_workers, caplog):
    odd_files(tmp_path)
    module = photos(tmp_path, num_workers=num_workers, num_calibration=3)
    calibration = module.calibration()
    assert len(calibration.images) == 3
    assert calibration.skipped == [str(tmp_path / "cut.jpg")]
    assert f"1 of 5 images of {tmp_path} could not be read and were left out: cut.jpg" in caplog.text
    assert "cut.jpg" not in module.evaluated.files
    assert module.remarks()[0].endswith("could not be read and were left out: cut.jpg")
    assert 5 - 1 - 3 == len(module.evaluated.files) == sum(len(images) for images, _ in module.val_dataloader())


def test_turned_pictures_are_upright(tmp_path):
    odd_files(tmp_path)
    module = photos(tmp_path, num_calibration=1)
    places = dict(zip(module.own.names, module.own.thumbnails, strict=True))
    assert groups_of(torch.stack([thumbnail(scene(104)), places["turned.jpg"]])) == [0, 0]
    assert groups_of(torch.stack([thumbnail(scene(102)), places["moving.gif"]])) == [0, 0]


HUGE = """
import resource, sys
from pathlib import Path
from attnround.data.pixels import open_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image, _ = open_image(Path(sys.argv[1]), "RGB")
print(*image.size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_photograph_of_108_megapixels_takes_little_memory(tmp_path):
    scene(0).resize((12000, 9000), Image.Resampling.NEAREST).save(tmp_path / "huge.jpg", quality=30)
    done = subprocess.run(
        [sys.executable, "-c", HUGE, tmp_path / "huge.jpg"], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    width, height, kib = map(int, done.stdout.split())
    assert (width, height) == (3000, 2250)
    assert kib < 100 * 1024
    scene(1).save(tmp_path / "small.jpg")
    module = photos(tmp_path, num_calibration=1)
    assert len(module.evaluated.files) == 1
