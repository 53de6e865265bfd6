"""quantized.safetensors: what is loaded is what was saved, the size is what the bits say, and damage is seen."""

import json
import os
import pickle
import random

import pytest
import torch
from safetensors.torch import load, save_file
from safetensors.torch import save as serialised
from tests.deploy.conftest import MODELS, exported, images_for

import attnround
from attnround.deploy.file import read, save
from attnround.deploy.loading import fingerprint, open_model
from attnround.deploy.seal import ENTRY, FORMAT, NO_DIGEST, seal
from attnround.errors import InputError
from attnround.evaluation import stored_bytes
from attnround.quantization.layers import quantized_layers


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "quantized.safetensors"
    save(*[exported("resnet")[0], path, exported("resnet")[1]])
    return path


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_what_is_loaded_is_what_was_saved_to_the_bit(name, tmp_path):
    model, about = exported(name)
    save(model, tmp_path / "q.safetensors", about)
    loaded = attnround.load(tmp_path / "q.safetensors")
    images = images_for(model, 3, seed=1)
    assert torch.equal(loaded(images), model(images))
    assert torch.equal(loaded(images.contiguous(memory_format=torch.channels_last)), model(images))
    assert fingerprint(loaded) == fingerprint(model)
    assert loaded.preprocessing == model.preprocessing
    assert loaded.num_classes == model.num_classes
    ours, theirs = quantized_layers(loaded), quantized_layers(model)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[each].levels, theirs[each].levels) for each in ours)
    assert not loaded.training


@pytest.mark.parametrize("name", MODELS)
def test_its_tensors_take_the_bytes_that_are_counted(name, tmp_path):
    model, about = exported(name)
    written = save(model, tmp_path / "q.safetensors", about)
    raw = (tmp_path / "q.safetensors").read_bytes()
    assert written["bytes"] == len(raw)
    tensors = load(raw)
    size = stored_bytes(model)
    assert tensors["levels"].numel() == size["weights"]
    assert sum(each.numel() * each.element_size() for each in tensors.values()) == sum(size.values())


def test_three_bits_take_three_bits(path):
    content = read(path)
    assert 3 in {layer.grid.bit_width for layer in content.layers}
    expected = sum(-(-layer.levels.numel() * layer.grid.bit_width // 8) for layer in content.layers)
    assert load(path.read_bytes())["levels"].numel() == expected


def test_loading_draws_nothing_from_the_generator(path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    attnround.load(path)
    assert torch.equal(torch.rand(2), expected)


def test_the_same_model_gives_the_same_file(path, tmp_path):
    model, about = exported("resnet")
    save(model, tmp_path / "again", about)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_flipped_bit_anywhere_is_seen(path, tmp_path):
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    draw = random.Random(0)
    places = [
        *range(64),
        *draw.sample(range(64, header), 200),
        *draw.sample(range(header, len(raw)), 100),
        len(raw) - 1,
    ]
    digest = raw.index(read(path).about["sha256"].encode())
    for place in [*places, *range(digest, digest + 64)]:
        damaged = bytearray(raw)
        damaged[place] ^= 1 << draw.randrange(8)
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(InputError):
            read(tmp_path / "damaged")


@pytest.mark.parametrize("part", [0, 5, 8, 100, 0.3, 0.9, 1.0])
def test_a_truncated_file_is_refused(path, tmp_path, part):
    raw = path.read_bytes()
    (tmp_path / "short").write_bytes(raw[: part if isinstance(part, int) else int(part * (len(raw) - 1))])
    with pytest.raises(InputError, match=r"cut short|damaged"):
        attnround.load(tmp_path / "short")


def test_more_at_the_end_is_refused(path, tmp_path):
    (tmp_path / "long").write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="damaged"):
        attnround.load(tmp_path / "long")


def test_another_safetensors_file_is_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="does not say that it is a quantized model"):
        attnround.load(tmp_path / "other.safetensors")


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


@pytest.mark.parametrize("writer", [pickle.dump, torch.save])
def test_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch, writer):
    monkeypatch.chdir(tmp_path)
    with open("model.safetensors", "wb") as file:
        writer(Trap(), file)
    with pytest.raises(InputError, match="pickle"):
        attnround.load("model.safetensors")
    with pytest.raises(InputError, match="pickle"):
        open_model("model.pth")
    assert not os.path.exists("trapped")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        attnround.load(tmp_path / "no.safetensors")


def resealed(path, change) -> None:
    """Write the file anew with other metadata and the right checksum, as another program might."""
    about = read(path).about
    change(about)
    entry = json.dumps(about | {"sha256": NO_DIGEST})
    path.write_bytes(seal(serialised(load(path.read_bytes()), {ENTRY: entry}))[0])


CHANGES = {
    "a format from the future": (lambda about: about.update(format=FORMAT + 1), "install a newer attnround"),
    "files of its own": (lambda about: about["model"]["arguments"].update(checkpoint_path="x.pth"), "refused"),
    "a download": (lambda about: about["model"].update(name="hf-hub:someone/model"), "refused"),
    "another model": (lambda about: about["model"]["arguments"].update(channels=[8, 16, 16, 32]), "resnet18 otherwise"),
    "a layer that is not there": (lambda about: about["layers"]["name"].__setitem__(0, "none"), "otherwise"),
    "a table of layers without an end": (lambda about: about["layers"]["bits"].pop(), "not as format 1 says"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_cannot_be_built_is_refused_in_a_line(path, tmp_path, change):
    own = tmp_path / "changed.safetensors"
    own.write_bytes(path.read_bytes())
    resealed(own, lambda about: None)
    attnround.load(own)
    resealed(own, CHANGES[change][0])
    with pytest.raises(InputError, match=CHANGES[change][1]) as caught:
        attnround.load(own)
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_nothing(small, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(small[0], tmp_path / "q.safetensors", small[1])
    assert list(tmp_path.iterdir()) == []
