"""torch.export programs: they run without this project, give the same logits to the bit, and damage is seen."""

import io
import os
import random
import subprocess
import sys
import zipfile

import pytest
import torch
from tests.deploy.conftest import exported, images_for

from attnround.deploy.loading import open_model
from attnround.deploy.program import exported_program, open_program, sealed_program
from attnround.deploy.seal import describe, seal
from attnround.errors import InputError

ELSEWHERE = """
import sys, torch
program = torch.export.load("model.pt2").module()
images = torch.load("images.pt", weights_only=True)
with torch.no_grad():
    torch.save({name: run(images) for name, run in {
        "bare": program, "compiled": torch.compile(program, backend=sys.argv[1])}.items()}, "logits.pt")
assert not any(name.startswith(("attnround", "timm")) for name in sys.modules)
"""
VERSIONS = {"versions": {"torch": torch.__version__, "timm": "1.0.0"}}


def written(name: str) -> bytes:
    model, about = exported(name)
    return sealed_program(exported_program(model), about | VERSIONS)[0]


@pytest.fixture(scope="module")
def raw() -> bytes:
    return written("resnet")


@pytest.mark.parametrize("name", ["resnet", "vit", "float inputs"])
@torch.no_grad()
def test_the_logits_are_the_same_to_the_bit(name, raw):
    model, _ = exported(name)
    images = images_for(model, 3, seed=1)
    program = open_program(raw if name == "resnet" else written(name), "x")
    assert torch.equal(program.eval()(images), model(images))
    assert program.preprocessing["input_size"] == list(model.preprocessing["input_size"])


def elsewhere(raw: bytes, folder, backend: str) -> dict[str, torch.Tensor]:
    """Logits of the program, bare and compiled, in a process that cannot import the project."""
    model, _ = exported("resnet")
    (folder / "model.pt2").write_bytes(raw)
    torch.save(images_for(model, 3, seed=1), folder / "images.pt")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", ELSEWHERE, backend]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "logits.pt", weights_only=True)


@torch.no_grad()
def test_it_runs_and_compiles_without_this_project(raw, tmp_path):
    logits = elsewhere(raw, tmp_path, "aot_eager")
    model, _ = exported("resnet")
    expected = model(images_for(model, 3, seed=1))
    assert torch.equal(logits["bare"], expected)
    assert torch.allclose(logits["compiled"], expected, atol=1e-5)


@pytest.mark.slow
def test_inductor_compiles_it(raw, tmp_path):
    logits = elsewhere(raw, tmp_path, "inductor")
    assert torch.allclose(logits["compiled"], logits["bare"], atol=0.05)  # sums in another order decide ties otherwise


def test_levels_are_a_byte_each_and_no_place_is_left(raw):
    model, _ = exported("resnet")
    archive = zipfile.ZipFile(io.BytesIO(raw))
    weights = [each.file_size for each in archive.infolist() if "/weights/weight_" in each.filename]
    assert model.conv1.levels.numel() in weights
    program = next(archive.read(each) for each in archive.infolist() if each.filename.endswith("model.json"))
    assert b".py" not in program


def test_a_flipped_bit_anywhere_is_seen(raw):
    draw = random.Random(0)
    for place in [*range(32), *draw.sample(range(len(raw)), 100), *range(len(raw) - 32, len(raw))]:
        damaged = bytearray(raw)
        damaged[place] ^= 1 << draw.randrange(8)
        with pytest.raises(InputError):
            open_program(bytes(damaged), "x.pt2")


@pytest.mark.parametrize("part", [0, 4, 0.5, 0.99])
def test_a_truncated_file_is_refused(raw, part, tmp_path):
    (tmp_path / "short.pt2").write_bytes(raw[: int(part * len(raw)) if isinstance(part, float) else part])
    with pytest.raises(InputError, match="cut short") as caught:
        open_model(str(tmp_path / "short.pt2"))
    assert "\n" not in str(caught.value)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_a_pickle_is_refused_and_not_run(raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Trap(), "trap.pt2")
    with pytest.raises(InputError, match="does not say that it is a quantized model"):
        open_model("trap.pt2")
    inside, outside = zipfile.ZipFile(io.BytesIO(raw)), io.BytesIO()
    with zipfile.ZipFile(outside, "w", zipfile.ZIP_STORED) as forged:  # sealed again, a pickle where torch reads one
        for each in inside.infolist():
            trap = each.filename.endswith("sample_inputs/model.pt")
            forged.writestr(each.filename, (tmp_path / "trap.pt2").read_bytes() if trap else inside.read(each))
        forged.comment = describe({"model": {"name": "x", "preprocessing": {"input_size": [1]}}} | VERSIONS).encode()
    with pytest.raises(InputError, match="holds pickles"):
        open_program(seal(outside.getvalue())[0], "x.pt2")
    assert not (tmp_path / "trapped").exists()
