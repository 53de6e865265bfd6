from pathlib import Path

import pytest
import torch
from PIL import Image

from attnround.data import ImageFolder
from attnround.data.image_folder import class_places
from attnround.errors import InputError

SETTINGS = {
    "input_size": (3, 32, 32), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.9,
    "crop_mode": "center",
}  # fmt: skip


def data(root: Path, **settings) -> ImageFolder:
    module = ImageFolder(str(root), **({"num_workers": 0} | settings))
    module.match(SETTINGS, 10)
    return module


def test_folders_by_index_map_to_the_models_classes(image_folder):
    module = data(image_folder, calibration=str(image_folder / "calibration"))
    batches = list(module.val_dataloader())
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 0, 0, 7, 7, 7]
    assert batches[0][0].shape == (6, 3, 32, 32)


def test_wordnet_ids_map_to_imagenet_classes():
    places = class_places(["n01440764", "n03888257", "n02979186"], 1000, Path("val"))
    assert places == {"n01440764": 0, "n03888257": 701, "n02979186": 482}  # tench, parachute, cassette player


def test_other_names_are_the_classes_in_alphabetical_order():
    assert class_places(["cat", "dog"], 2, Path("val")) == {"cat": 0, "dog": 1}


@pytest.mark.parametrize(
    ("names", "num_classes", "lost"),
    [
        (["cat", "dog"], 10, "cat, dog map to none"),
        (["0", "12"], 10, "12 map to none"),
        (["n01440764", "n99999999"], 1000, "n99999999 map to none"),
        (["n01440764", "extra"], 1000, "classes, extra map"),
        (["n01440764"], 10, "n01440764 map to none"),
        ([], 10, "no folder"),
    ],
)
def test_folders_that_map_to_nothing_are_named(names, num_classes, lost):
    with pytest.raises(InputError, match=lost):
        class_places(names, num_classes, Path("val"))


def test_calibration_takes_images_at_any_depth_and_counts_the_broken(image_folder, caplog):
    calibration = data(image_folder, calibration=str(image_folder / "calibration"), num_calibration=6).calibration()
    assert calibration.images.shape == (6, 3, 32, 32)
    assert [Path(each).name for each in calibration.skipped] == ["broken.png"]
    assert "broken.png is not a readable image" in caplog.text


def test_fewer_readable_images_than_asked_for(image_folder):
    with pytest.raises(InputError, match="only 6 readable images, 1 files are not"):
        data(image_folder, calibration=str(image_folder / "calibration"), num_calibration=7).calibration()
    with pytest.raises(InputError, match="offers 7 images"):
        data(image_folder, calibration=str(image_folder / "calibration"), num_calibration=8).calibration()


def test_a_missing_root_a_root_without_val_and_a_val_without_images(tmp_path, image_folder):
    with pytest.raises(InputError, match="is not there"):
        data(tmp_path / "no")
    with pytest.raises(InputError, match="has no folder val"):
        data(tmp_path)
    (tmp_path / "val" / "3").mkdir(parents=True)
    with pytest.raises(InputError, match="hold no image"):
        data(tmp_path)
    with pytest.raises(InputError, match=r"data\.calibration.*not there"):
        data(image_folder)  # no train/ to fall back on
    with pytest.raises(InputError, match="holds no image"):
        data(image_folder, calibration=str(tmp_path))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_evaluation_image_is_named_in_one_line(tmp_path, num_workers):
    (tmp_path / "val" / "3").mkdir(parents=True)
    (tmp_path / "train").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "train" / "a.png")
    (tmp_path / "val" / "3" / "bad.jpg").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"^\S*bad\.jpg is not a readable image") as caught:
        list(data(tmp_path, num_workers=num_workers).val_dataloader())
    assert "\n" not in str(caught.value)


def test_grey_models_get_one_channel(image_folder):
    module = ImageFolder(str(image_folder), str(image_folder / "calibration"), num_calibration=2, num_workers=0)
    module.match(SETTINGS | {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,)}, 10)
    assert module.calibration().images.shape == (2, 1, 32, 32)
