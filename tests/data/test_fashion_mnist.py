import gzip

import pytest
import torch
from tests.conftest import ROOT

from attnround.data import FashionMNIST
from attnround.data.fashion_mnist import read_idx
from attnround.errors import InputError

ASSETS = ROOT / "assets/fashion_mnist"
GREY = {"input_size": (1, 28, 28), "mean": (0.286,), "std": (0.353,)}


def data(**settings) -> FashionMNIST:
    module = FashionMNIST(str(ASSETS), **settings)
    module.match(GREY, 10)
    return module


def test_the_whole_test_set_is_there():
    labels = torch.cat([labels for _, labels in data().val_dataloader()])
    assert len(labels) == 10_000
    assert labels.bincount().tolist() == [1000] * 10


def test_images_are_normalised():
    images, _ = next(iter(data().val_dataloader()))
    assert images.shape == (500, 1, 28, 28)
    assert abs(images.mean().item()) < 0.05
    assert abs(images.std().item() - 1) < 0.05


def test_the_calibration_set_is_seeded_and_its_indices_tell_it():
    one, two, other = data(seed=3).calibration(), data(seed=3).calibration(), data(seed=4).calibration()
    assert torch.equal(one.images, two.images)
    assert one.indices == two.indices != other.indices
    assert len(set(one.indices)) == len(one.images) == 1024
    raw = read_idx(ASSETS / "train10k-images-idx3-ubyte.gz")[one.indices[5]]
    torch.testing.assert_close(one.images[5, 0], (raw / 255 - 0.286) / 0.353)


def test_more_images_than_there_are():
    with pytest.raises(InputError, match="10000 images"):
        data(num_calibration=10_001).calibration()


def test_a_colour_model_is_told_what_to_do():
    module = FashionMNIST(str(ASSETS))
    with pytest.raises(InputError, match="data=image_folder"):
        module.match(GREY | {"input_size": (3, 224, 224)}, 10)


def test_the_full_training_set_is_asked_for_in_words_where_it_is_nowhere(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", no_network)
    module = data(full_train=True, train_root=str(tmp_path), download_root=str(tmp_path))
    with pytest.raises(InputError, match="apt-get install dataset-fashion-mnist"):
        module.train_dataloader()


BROKEN = {
    "no gzip": b"nothing",
    "empty": gzip.compress(b""),
    "cut off": gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc"),
    "damaged": gzip.compress(bytes(range(99)))[:20] + bytes(60),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / "images.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"images\.gz is not a gzipped IDX file"):
        read_idx(tmp_path / "images.gz")


def test_augmentation_shifts_and_mirrors_but_keeps_the_picture():
    class Training:
        training = True

    module = data()
    module.trainer = Training()
    torch.manual_seed(0)
    image = torch.zeros(1, 28, 28)
    image[0, 10:14, 5:9] = torch.arange(16.0).reshape(4, 4) + 1
    batch = image.expand(500, 1, 28, 28)
    shifted, labels = module.on_after_batch_transfer([batch, torch.arange(500)], 0)
    assert shifted.shape == batch.shape
    assert torch.equal(labels, torch.arange(500))
    assert torch.equal(shifted.sum((1, 2, 3)), batch.sum((1, 2, 3)))
    rows, columns = shifted.sum((1, 3)).argmax(1), shifted.sum((1, 2)).argmax(1)
    assert rows.unique().tolist() == [11, 12, 13, 14, 15]  # the brightest row is the 13th, two either way
    assert columns.unique().tolist() == [6, 7, 8, 9, 10, 17, 18, 19, 20, 21] or len(columns.unique()) == 10


def test_a_file_that_unpacks_to_more_than_it_says_or_may_is_refused(tmp_path):
    cases = (("more", (2, 2), 5, ""), ("less", (2, 2), 3, ""), ("bomb", (60_000, 60_000), 1000, "its header claims 36"))
    for name, dims, content, why in cases:
        header = bytes([0, 0, 8, len(dims)]) + b"".join(size.to_bytes(4, "big") for size in dims)
        (tmp_path / name).write_bytes(gzip.compress(header + bytes(content)))
        with pytest.raises(InputError, match=rf"{name} is not a gzipped IDX file \({why}"):
            read_idx(tmp_path / name)
