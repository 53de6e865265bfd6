import shutil
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from tests.conftest import ROOT

from attnround.data import ImageFolder
from attnround.data.fashion_mnist import read_idx
from attnround.errors import InputError
from attnround.evaluation import evaluate
from attnround.trainer import TrainerSettings

ASSETS = ROOT / "assets/fashion_mnist"

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


def test_calibration_takes_images_at_any_depth_and_counts_the_broken(image_folder, caplog):
    calibration = data(image_folder, calibration=str(image_folder / "calibration"), num_calibration=6).calibration()
    assert calibration.images.shape == (6, 3, 32, 32)
    assert [Path(each).name for each in calibration.skipped] == ["broken.png"]
    assert "broken.png is not a readable image" in caplog.text


def test_calibration_images_that_are_evaluated_on_are_said(image_folder, caplog):
    data(image_folder, calibration=str(image_folder / "calibration"), num_calibration=6).calibration()
    assert "evaluated on" not in caplog.text
    data(image_folder, calibration=str(image_folder), num_calibration=6).calibration()
    assert f"6 of its 13 images are below {image_folder / 'val'}, whose images are evaluated on" in caplog.text


def test_fewer_readable_images_than_asked_for(image_folder):
    with pytest.raises(InputError, match="only 6 readable images, 1 files are not"):
        data(image_folder, calibration=str(image_folder / "calibration"), num_calibration=7).calibration()
    with pytest.raises(InputError, match="offers 7 images"):
        data(image_folder, calibration=str(image_folder / "calibration"), num_calibration=8).calibration()


def test_without_a_number_all_readable_images_calibrate(image_folder):
    calibration = data(image_folder, calibration=str(image_folder / "calibration"), num_calibration=None).calibration()
    assert len(calibration.images) == len(calibration.indices) == 6
    assert len(calibration.skipped) == 1


def test_a_missing_root_a_root_without_val_and_a_val_without_images(tmp_path, image_folder):
    with pytest.raises(InputError, match="is not there"):
        data(tmp_path / "no")
    with pytest.raises(InputError, match="has no folder val"):
        data(tmp_path)
    (tmp_path / "val" / "3").mkdir(parents=True)
    with pytest.raises(InputError, match="hold no image"):
        data(tmp_path)
    only_evaluates = data(image_folder)
    assert len(only_evaluates.evaluation) > 0
    with pytest.raises(InputError, match=r"data\.calibration.*not there"):
        only_evaluates.calibration()  # no train/ to fall back on
    with pytest.raises(InputError, match="holds no image"):
        data(image_folder, calibration=str(tmp_path)).calibration()


def test_a_validation_set_may_have_a_name_of_its_own(image_folder, tmp_path):
    shutil.copytree(image_folder / "val", tmp_path / "mine/test")
    calibration = str(image_folder / "calibration")
    named = data(tmp_path / "mine", validation="test", calibration=calibration)
    elsewhere = data(tmp_path, validation=str(tmp_path / "mine/test"), calibration=calibration)
    for module in (named, elsewhere):
        assert torch.cat([labels for _, labels in module.val_dataloader()]).tolist() == [0, 0, 0, 7, 7, 7]
    with pytest.raises(InputError, match=r"has no folder valid: .*data.validation=<its name>"):
        data(tmp_path / "mine", validation="valid")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_broken_evaluation_images_are_left_out_named_and_counted(tmp_path, num_workers, caplog):
    root = images(tmp_path, "val/3/1.png", "val/4/2.png", "train/a.png")
    for name in ("1", "0"):
        (root / "val" / "4" / f"bad{name}.jpg").write_bytes(b"not an image")
    module = data(root, num_workers=num_workers, batch_size=1, num_calibration=1)
    batches = [batch for batch in module.val_dataloader() if batch is not None]
    assert [labels.tolist() for _, labels in batches] == [[3], [4]]
    said = f"2 of 4 images of {root / 'val'} could not be read and were left out: 4/bad0.jpg, 4/bad1.jpg"
    assert module.remarks() == [said]
    module.say_remarks()
    module.say_remarks()
    assert caplog.text.count(said) == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_evaluation_image_without_a_range_is_named_in_one_line(tmp_path, num_workers):
    root = images(tmp_path, "train/a.png", "val/3/1.png")
    Image.new("F", (40, 40)).save(root / "val" / "3" / "float.tif")
    fault = r"^\S*float\.tif holds TIFF values of mode F, whose range"
    with pytest.raises(InputError, match=fault) as caught:
        list(data(root, num_workers=num_workers, num_calibration=1).val_dataloader())
    assert "\n" not in str(caught.value)
    traceback.clear_frames(caught.tb)  # they hold the loader, and one that is garbage waits 5 s for its worker
    (root / "val" / "3" / "1.png").unlink()
    with pytest.raises(InputError, match=fault):  # where all are such, at once
        data(root, num_workers=num_workers, num_calibration=1)


def test_a_damaged_training_image_is_left_out_and_named(tmp_path):
    root = images(tmp_path, "val/3/1.png", "train/3/a.png", "train/3/b.png")
    (root / "train" / "3" / "bad.jpg").write_bytes(b"not an image")
    module = data(root)
    (batch,) = module.train_dataloader()
    assert batch[1].tolist() == [3, 3]
    assert [line for line in module.remarks() if "1 of 3 images" in line and "bad.jpg" in line]


def test_images_of_a_kind_that_is_not_read_here_are_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("attnround.data.files.READ_HERE", (".png",))  # whether or not a plugin for HEIC is installed
    root = images(tmp_path, "val/3/1.png", "train/a.png")
    for name in ("val/3/b.HEIC", "val/3/c.heic", "train/x.heic"):
        (root / name).touch()
    data(root, num_calibration=1).calibration()
    assert "val: 2 images are left out (3/b.HEIC, 3/c.heic): this Pillow does not read them" in caplog.text
    assert "train: 1 images are left out (x.heic)" in caplog.text


def test_what_was_done_to_calibration_images_is_said_and_kept(tmp_path, caplog):
    root = images(tmp_path, "val/3/1.png", "train/a.png")
    Image.new("RGBA", (40, 40), (255, 0, 0, 128)).save(root / "train" / "glass.png")
    calibration = data(root, num_calibration=2).calibration()
    (line,) = calibration.provenance()["remarks"]
    assert line == f"1 of 2 images of {root / 'train'} have transparent pixels, which show white: glass.png"
    assert line in caplog.text


def test_grey_models_get_one_channel(image_folder):
    module = ImageFolder(str(image_folder), str(image_folder / "calibration"), num_calibration=2, num_workers=0)
    module.match(SETTINGS | {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,)}, 10)
    assert module.calibration().images.shape == (2, 1, 32, 32)


def images(root: Path, *names: str) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / name)
    return root


def test_one_calibration_image_and_a_batch_larger_than_the_set(image_folder):
    module = data(image_folder, calibration=str(image_folder / "calibration"), num_calibration=1, batch_size=500)
    assert module.calibration().images.shape == (1, 3, 32, 32)
    assert sum(len(labels) for _, labels in module.val_dataloader()) == 6


def test_a_limited_part_is_balanced_and_no_larger_than_the_set(image_folder):
    calibration = str(image_folder / "calibration")
    ((_, labels),) = data(image_folder, calibration=calibration, limit=4).val_dataloader()
    assert labels.tolist() == [0, 0, 7, 7]
    with pytest.raises(InputError, match=r"data\.limit=7: there are 6"):
        data(image_folder, calibration=calibration, limit=7)


def test_a_part_of_imagenet_is_evaluated_on_its_classes_and_says_how_many(tmp_path, caplog):
    root = images(tmp_path, "train/n01440764/1.JPEG", "val/n03888257/1.JPEG", "val/n01440764/2.JPEG")
    (root / "val" / "n02979186").mkdir()
    module = ImageFolder(str(root), num_calibration=1, num_workers=0)
    module.match(SETTINGS, 1000)
    assert [labels.tolist() for _, labels in module.val_dataloader()] == [[0, 701]]
    assert "images of 2 of the model's 1000 classes" in caplog.text


def test_all_classes_are_nothing_to_speak_of(tmp_path, caplog):
    root = images(tmp_path, "train/1.png", *(f"val/{i}/1.png" for i in range(10)))
    data(root, num_calibration=1)
    assert not caplog.records


def test_unsorted_validation_images_are_told_how_to_be_sorted(tmp_path):
    root = images(tmp_path, "train/n01440764/1.JPEG", "val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(InputError, match=r"val has 1 images and no class folders: .* run valprep\.sh") as caught:
        data(root)
    assert "\n" not in str(caught.value)


def test_calibration_draws_over_all_class_folders_the_same_images_for_a_seed(tmp_path):
    names = [f"train/{i}/{j}.png" for i in range(10) for j in range(3)]
    root = images(tmp_path, "val/0/1.png", *names)
    one, two = (data(root, num_calibration=20, seed=5).calibration() for _ in range(2))
    assert one.indices == two.indices
    assert torch.equal(one.images, two.images)
    assert data(root, num_calibration=30).calibration().source.endswith("train (30 files)")


def test_training_takes_root_train_with_the_classes_of_val(tmp_path):
    root = images(tmp_path, "val/0/1.png", *(f"train/{i}/{j}.png" for i in (3, 8) for j in range(4)))
    loader = data(root, batch_size=4).train_dataloader()
    batches = list(loader)
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == [3] * 4 + [8] * 4
    assert batches[0][0].shape == (4, 3, 32, 32)
    assert not torch.equal(loader.dataset[0][0], loader.dataset[0][0])  # augmented


def test_names_mean_the_same_class_in_train_and_val(tmp_path):
    names = [f"{part}/{name}/1.png" for part in ("train", "val") for name in ("cat", "dog")]
    module = ImageFolder(str(images(tmp_path, *names)), num_workers=0)
    module.match(SETTINGS, 2)
    assert module.train_dataloader().dataset.labels == [0, 1]
    (tmp_path / "train/dog").rename(tmp_path / "train/emu")  # else emu would be 1, as dog is in val
    with pytest.raises(InputError, match="cat, dog, emu map to none"):
        module.train_dataloader()


def test_training_without_class_folders_is_told_where_they_belong(image_folder):
    module = data(image_folder, calibration=str(image_folder / "calibration"))
    with pytest.raises(InputError, match=r"train has no class folders: training takes .* from data\.root/train"):
        module.train_dataloader()


def test_grey_images_are_trained_on_too(tmp_path):
    module = ImageFolder(str(images(tmp_path, "val/0/1.png", "train/3/1.png")), num_workers=0)
    module.match(SETTINGS | {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,)}, 10)
    ((batch, _),) = module.train_dataloader()
    assert batch.shape == (1, 1, 32, 32)


def test_folders_whose_order_differs_ask_for_one(tmp_path):
    names = [f"class {number}" for number in range(1, 11)]
    root = images(tmp_path, "train/a.png", *(f"val/{name}/1.png" for name in names))
    with pytest.raises(InputError, match=r"output 1 is the folder class 10 in torchvision's order and class 2 in"):
        data(root)
    for order, labels in (("torchvision", [0, 1, 2]), ("timm", [0, 9, 1])):  # of class 1, class 10, class 2
        assert data(root, class_order=order).evaluation.labels[:3] == labels


def test_classes_that_val_lacks_are_known_from_train(tmp_path):
    train = (f"train/{name}/1.png" for name in ("ant", "cat", "dog"))
    module = ImageFolder(str(images(tmp_path, "val/dog/1.png", "val/cat/1.png", *train)), num_workers=0)
    module.match(SETTINGS, 3)
    assert module.evaluation.labels == [1, 2]


def test_a_map_of_files_to_several_right_classes(tmp_path):
    root = images(tmp_path, "val/1.png", "val/sub/2.png", "train/a.png")
    (tmp_path / "map.csv").write_text("file,classes\n1.png,3,5\nsub,7\n")
    module = data(root, class_map=str(tmp_path / "map.csv"))
    ((_, labels),) = module.val_dataloader()
    assert labels.tolist() == [[3, 5], [7, -1]]
    (tmp_path / "map.csv").write_text("1.png,3")
    with pytest.raises(InputError, match=r"map\.csv has no line for sub/2\.png"):
        data(root, class_map=str(tmp_path / "map.csv"))
    with pytest.raises(InputError, match="give one of them"):
        data(root, class_map=str(tmp_path / "map.csv"), class_order="timm")


def test_a_map_of_folders_labels_training_images_too(tmp_path):
    root = images(tmp_path, *(f"{part}/{name}/1.png" for part in ("val", "train") for name in ("x", "y")))
    (tmp_path / "map.json").write_text('{"x": 9, "y": 2}')
    module = data(root, class_map=str(tmp_path / "map.json"))
    assert module.evaluation.labels == module.train_dataloader().dataset.labels == [9, 2]
    (tmp_path / "map.json").write_text('{"x": [9, 3], "y": 2}')
    with pytest.raises(InputError, match="several classes for an image: training takes one"):
        data(root, class_map=str(tmp_path / "map.json")).train_dataloader()


def test_the_shipped_network_is_as_good_on_its_images_as_files_of_either_depth_and_order(tmp_path):
    labels = read_idx(ASSETS / "t10k-labels-idx1-ubyte.gz")[:60].tolist()
    for i, (image, label) in enumerate(zip(read_idx(ASSETS / "t10k-images-idx3-ubyte.gz"), labels, strict=False)):
        for part, values in (("eight", image.numpy()), ("sixteen", image.numpy().astype(np.uint16) * 257)):
            path = tmp_path / part / "val" / f"class {label + 1}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        model = instantiate(compose("train", [f"paths.root={ROOT}"]).model, _convert_="all").build()
    found = {}
    for part in ("eight", "sixteen"):
        for order in ("timm", "torchvision"):
            folder = ImageFolder(
                str(tmp_path / part), str(tmp_path / "eight"), num_calibration=1, num_workers=0, class_order=order
            )
            folder.match(model.preprocessing | {"crop_pct": 1.0}, 10)
            found[part, order] = evaluate(model, folder, TrainerSettings())
    assert found["eight", "timm"].top1 > 85
    assert found["eight", "torchvision"].top1 < 30
    assert torch.equal(found["eight", "timm"].logits, found["sixteen", "timm"].logits)
