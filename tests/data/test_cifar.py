"""CIFAR from small files in its published format: pickled batches whose checksums torchvision compares."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import datasets

from attnround.data import CIFAR10, CIFAR100
from attnround.errors import InputError
from attnround.evaluation import evaluate
from attnround.trainer import TrainerSettings
from attnround.training import Recipe, SupervisedModule

NATIVE = {
    "input_size": (3, 32, 32), "interpolation": "bicubic", "mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3),
    "crop_pct": 0.875, "crop_mode": "center",
}  # fmt: skip
A_BATCH = 40


def write(root: Path, kind: type, monkeypatch) -> None:
    """A batch of A_BATCH images for each of its files, and the checksums they have."""
    rng = np.random.default_rng(0)
    folder = root / kind.base_folder
    folder.mkdir()

    def dump(name: str, content: dict) -> str:
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    def batch(name: str) -> list[str]:
        labels = "fine_labels" if kind is datasets.CIFAR100 else "labels"
        content = {
            "data": rng.integers(0, 256, (A_BATCH, 3 * 32 * 32), dtype=np.uint8),
            labels: [i % 10 for i in range(A_BATCH)],
        }
        return [name, dump(name, content)]

    monkeypatch.setattr(kind, "train_list", [batch(name) for name, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [batch(name) for name, _ in kind.test_list])
    monkeypatch.setattr(
        kind, "meta", kind.meta | {"md5": dump(kind.meta["filename"], {kind.meta["key"]: list("abcdefghij")})}
    )


@pytest.fixture
def data(tmp_path, monkeypatch):
    write(tmp_path, datasets.CIFAR10, monkeypatch)

    def make(preprocessing: dict = NATIVE, **settings) -> CIFAR10:
        module = CIFAR10(str(tmp_path), **({"num_workers": 0, "num_calibration": 8} | settings))
        module.match(preprocessing, 10)
        return module

    make.raw = datasets.CIFAR10(tmp_path, train=False).data
    return make


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)


def test_images_of_the_models_size_are_normalised_and_nothing_else(data):
    ((images, labels),) = data().val_dataloader()
    expected = (data.raw / 255 - np.array(NATIVE["mean"])) / np.array(NATIVE["std"])
    torch.testing.assert_close(images, torch.from_numpy(expected).permute(0, 3, 1, 2).float())
    assert labels.tolist() == [i % 10 for i in range(A_BATCH)]


@pytest.mark.parametrize("side", [28, 64])
def test_other_models_get_them_by_timms_transform(data, side):
    ((images, _),) = data(NATIVE | {"input_size": (3, side, side)}).val_dataloader()
    assert images.shape == (A_BATCH, 3, side, side)
    resized = Image.fromarray(data.raw[3]).resize((int(side / 0.875),) * 2, Image.Resampling.BICUBIC)
    edge = (resized.width - side) // 2
    crop = np.asarray(resized)[edge : edge + side, edge : edge + side] / 255
    expected = (crop - np.array(NATIVE["mean"])) / np.array(NATIVE["std"])
    torch.testing.assert_close(images[3].permute(1, 2, 0), torch.from_numpy(expected).float(), atol=0.05, rtol=0)


def test_calibration_is_seeded_and_from_the_training_images(data, tmp_path):
    one, two, other = data(seed=1).calibration(), data(seed=1).calibration(), data(seed=2).calibration()
    assert torch.equal(one.images, two.images)
    assert one.indices != other.indices
    assert one.images.shape == (8, 3, 32, 32)
    assert one.source == "CIFAR-10, 200 training images"
    raw = datasets.CIFAR10(tmp_path, train=True).data[one.indices[2]]
    assert torch.equal((one.images[2, 0] * 0.1 + 0.4).mul(255).round().byte(), torch.from_numpy(raw[..., 0]))
    assert len(data(num_calibration=1).calibration().images) == 1
    with pytest.raises(InputError, match="offers 200 images"):
        data(num_calibration=201).calibration()


def test_training_shifts_by_up_to_four_pixels_and_mirrors(data, tmp_path):
    torch.manual_seed(0)
    module = data(NATIVE | {"mean": (0.0,) * 3, "std": (1.0,) * 3}, batch_size=200)
    originals = torch.from_numpy(datasets.CIFAR10(tmp_path, train=True).data).permute(0, 3, 1, 2)
    places = {}
    for image, mirror in ((each, mirror) for each in originals for mirror in (False, True)):
        centre = (image.flip(2) if mirror else image)[:, 4:28, 4:28]  # whatever the shift, this part is still there
        places[centre.numpy().tobytes()] = mirror
    seen = set()
    ((images, _),) = module.train_dataloader()
    assert images.shape == (200, 3, 32, 32)
    for image in images.mul(255).round().byte():
        windows = ((y, x, image[:, y : y + 24, x : x + 24].numpy().tobytes()) for y in range(9) for x in range(9))
        found = [(y, x, places[window]) for y, x, window in windows if window in places]
        assert len(found) == 1
        seen.add(found[0])
    assert {y for y, _, _ in seen} == {x for _, x, _ in seen} == set(range(9))
    assert {mirror for _, _, mirror in seen} == {False, True}


def test_training_is_seeded_with_workers(data):
    batches = [next(iter(data(num_workers=1, batch_size=20).train_dataloader())) for _ in range(2)]
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[0][1], batches[1][1])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_model_trains_and_is_evaluated_on_it(data, optimizer):
    module, settings = data(batch_size=64, num_workers=1, limit=30), TrainerSettings()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    before = model[1].weight.clone()
    recipe = Recipe(num_epochs=1, lr=0.01, weight_decay=0.0, label_smoothing=0.0, optimizer=optimizer)
    fit = settings.make(max_epochs=1, logger=False)
    fit.fit(SupervisedModule(model, recipe), datamodule=module)
    assert type(fit.optimizers[0]).__name__.lower() == optimizer
    assert fit.global_step == 3  # 200 images, the last 8 dropped
    assert not torch.equal(before, model[1].weight)
    assert evaluate(model.eval(), module, settings).labels.bincount().tolist() == [3] * 10


def test_a_limited_part_is_balanced(data):
    ((_, labels),) = data(limit=20).val_dataloader()
    assert labels.bincount().tolist() == [2] * 10
    with pytest.raises(InputError, match=r"data\.limit=41: there are 40"):
        data(limit=41)


def test_cifar100_has_its_own_files_and_fine_labels(tmp_path, monkeypatch):
    write(tmp_path, datasets.CIFAR100, monkeypatch)
    module = CIFAR100(str(tmp_path), num_calibration=8, num_workers=0)
    module.match(NATIVE, 100)
    ((_, labels),) = module.val_dataloader()
    assert len(labels) == A_BATCH
    assert module.calibration().source == "CIFAR-100, 40 training images"


def test_no_files_and_no_network_is_one_line(tmp_path, no_network):
    module = CIFAR100(str(tmp_path))
    with pytest.raises(InputError, match=r"name resolution.*cifar-100-python\.tar\.gz") as caught:
        module.match(NATIVE, 100)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_not_read(data, tmp_path, no_network):
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"CIFAR-10 is not whole in data\.root="):
        data()


@pytest.mark.parametrize(("channels", "num_classes"), [(1, 10), (3, 1000)])
def test_a_model_for_other_images_is_told_what_to_do(tmp_path, channels, num_classes):
    with pytest.raises(InputError, match=r"CIFAR-10 has 3 and 10: give a model for it"):
        CIFAR10(str(tmp_path)).match(NATIVE | {"input_size": (channels, 32, 32)}, num_classes)
