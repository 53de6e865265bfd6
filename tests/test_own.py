"""One's own model and data from the command line, without editing the package: run, verified, exported, evaluated."""

import json
import subprocess

import numpy as np
import pytest

from tests import processes
from tests.conftest import ROOT
from tests.test_resume import HYDRA, contents

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return {"features": x, "logits": self.fc(x.mean((2, 3)))}

class Reserved(Net):
    def __init__(self):
        super().__init__(4)
        self.preprocessing = nn.Identity()

class Fixed(Net):
    num_classes = property(lambda self: 5)

    def __init__(self):
        super().__init__(4)

def small(width=8):
    torch.manual_seed(0)
    return Net(width)
"""
NUMBERED = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""
SETS = """
import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

def labelled(count=40):
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(
        torch.randn(count, 3, 16, 16, generator=generator), torch.randint(0, 5, (count,), generator=generator)
    )

def saved():
    return TensorDataset(torch.from_numpy(np.load("images.npy")))

class Photos(Dataset):
    def __len__(self):
        return 30

    def __getitem__(self, index):
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, (20, 24, 3), dtype=np.uint8))

class Broken(Photos):
    def __getitem__(self, index):
        if index == 7:
            raise OSError("photo 7 is damaged")
        return super().__getitem__(index), 0

def words():
    return [(torch.zeros(3, 16, 16), "cat")] * 4

def none():
    return TensorDataset(torch.zeros(0, 3, 16, 16), torch.zeros(0, dtype=torch.long))

def beyond():
    labels = torch.zeros(100, dtype=torch.long)
    labels[90] = 77
    return TensorDataset(torch.zeros(100, 3, 16, 16), labels)

class Named(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.zeros(3, 16, 16), "cat"

class Flow(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(labelled(64), 8)

    def val_dataloader(self):
        return [next(iter(DataLoader(labelled(), 8)))]

class Lists(Flow):
    def train_dataloader(self):
        return [DataLoader(labelled(64), 8)]

    def val_dataloader(self):
        return [DataLoader(labelled(), 8)]

class Several(Flow):
    def val_dataloader(self):
        return [DataLoader(labelled(), 8)] * 2

class Shuffles(Flow):
    def val_dataloader(self):
        return DataLoader(labelled(), 8, shuffle=True)

class Nothing(Flow):
    def val_dataloader(self):
        return None

class Raises(Flow):
    def setup(self, stage):
        raise KeyError("photos")

class Module(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(labelled(64), 8)

    def val_dataloader(self):
        return DataLoader(labelled(), 8)
"""
MODEL = ("model=module", "model.factory=nets.py:small", "model.input_size=[3,16,16]", "model.output=logits")
DATA = ("data=module", "data.factory=sets:labelled")
RUN = (*MODEL, "data.num_calibration=16", "bits=uniform", "activation=mse", "quantizer=gptq", "hydra.run.dir=run")


@pytest.fixture
def entry(tmp_path):
    """Run an entry in a folder with a model and data of one's own."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "sets.py").write_text(SETS)

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess:
        return processes.run([str(ROOT / f"src/{name}.py"), *arguments], tmp_path)

    return run


def test_a_module_and_its_data_go_all_the_way(entry, tmp_path):
    done = entry("train", *RUN, *DATA, "data.calibration=sets.py:Photos", "data.arguments={count: 40}")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/record.json").read_text())
    top1 = record["metrics"]["quantized/top1"]
    assert record["calibration"]["source"] == "sets.py:Photos"
    assert "model        small, " in done.stdout

    card = (tmp_path / "run/model_card.md").read_text()
    assert "- network: `nets.py:small`, for module" in card
    assert 'attnround.load("quantized.safetensors", model=<the float module>)' in card
    assert "data=module factory=nets.py:small data.factory=sets:labelled` measures it again" in card
    assert "timm\n" not in card

    given = (*DATA, "factory=nets.py:small")
    verified = entry("verify", "run", *given)
    assert verified.returncode == 0, verified.stderr
    assert f"top-1: {top1:.2f} % in integers, {top1:.2f} % in simulation" in verified.stdout
    exported = entry("export", "run", *given)
    assert exported.returncode == 0, exported.stderr
    for file in ("quantized.safetensors", "quantized.onnx"):
        evaluated = entry("evaluate", f"checkpoint=run/{file}", *given)
        assert f"top-1 {top1:.2f} %" in evaluated.stdout, evaluated.stderr


def test_what_a_record_names_is_not_run(entry):
    assert entry("train", *RUN, *DATA, "data.calibration=sets.py:Photos").returncode == 0
    of_data = entry("verify", "run")
    assert "data of your own: give data=module data.factory=sets:labelled" in of_data.stderr
    of_model = entry("verify", "run", *DATA)
    assert "model of your own: give factory=nets.py:small" in of_model.stderr
    other = entry("verify", "run", *DATA, "factory=nets.py:small", "arguments={width: 12}")
    assert "the model given differs in conv" in other.stderr
    assert {each.returncode for each in (of_data, of_model, other)} == {1}
    assert {len(each.stderr.strip().splitlines()) for each in (of_data, of_model, other)} == {1}


def test_a_data_module_calibrates_evaluates_and_trains(entry, tmp_path):
    qat = ("qat=lsq", "qat.num_epochs=1", "qat.batch_size=8")
    done = entry("train", *RUN, "data=module", "data.factory=sets:Module", *qat)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/record.json").read_text())
    assert record["evaluation"]["images"] == 40
    assert record["metrics"]["qat/labels"] == 64
    limited = entry("evaluate", "checkpoint=run/quantized.safetensors", "factory=nets.py:small", "data=module",
                    "data.factory=sets:Module", "data.limit=10")  # fmt: skip
    assert "10 images" in limited.stdout, limited.stderr


def test_a_data_module_may_give_a_list_of_one_loader(entry, tmp_path):
    done = entry("train", *RUN, "data=module", "data.factory=sets:Lists")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/record.json").read_text())["evaluation"]["images"] == 40


def test_layers_that_are_called_by_numbers_can_be_pinned(entry, tmp_path):
    (tmp_path / "numbered.py").write_text(NUMBERED)
    model = [each for each in RUN if not each.startswith("model.")]
    own = ("model.factory=numbered.py:build", "model.input_size=[3,16,16]", "quantizer=nearest")
    done = entry("train", *model, *own, *DATA, "data.calibration=sets.py:Photos", "+bits.pinned={0: 4}")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/record.json").read_text())
    assert record["allocation"]["bit_width"]["0"] == 4


@pytest.mark.parametrize("changed", ["nets.py", "bits.json"])
def test_a_run_does_not_go_on_where_a_file_changed(entry, tmp_path, changed):
    (tmp_path / "bits.json").write_text('{"conv": 8, "fc": 8}')
    words = [*RUN, *DATA, "data.calibration=sets.py:Photos", "bits=file", "bits.path=bits.json"]
    assert entry("train", *words).returncode == 0
    before = (tmp_path / "run/record.json").read_text()
    assert set(json.loads(before)["sources"]) == {"bits.path", "model.factory", "data.factory", "data.calibration"}
    words = [each for each in words if not each.startswith("hydra")]
    again = entry("train", *words, "resume=run")
    assert again.returncode == 0, again.stderr
    (tmp_path / changed).write_text(
        NETS.replace("manual_seed(0)", "manual_seed(1)") if changed == "nets.py" else '{"conv": 2, "fc": 2}'
    )
    before = (tmp_path / "run/record.json").read_text()
    other = entry("train", *words, "resume=run")
    assert other.returncode == 1
    assert "is of this run before a file that its options name changed, or where that file was not" in other.stderr
    assert (tmp_path / "run/record.json").read_text() == before


def test_a_run_does_not_go_on_with_other_images(entry, tmp_path):
    """Which lie where its options point: the first units would be learned from some and the last from others."""
    images = np.random.default_rng(0).normal(size=(40, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    words = [*RUN, *DATA, "data.calibration=sets.py:saved"]
    done = entry("train", *words)
    assert done.returncode == 0, done.stderr
    before = contents(tmp_path / "run")
    np.save(tmp_path / "images.npy", -images)
    words = [*(each for each in words if not each.startswith("hydra")), "resume=run"]
    refused = entry("train", *words)
    assert refused.returncode == 1
    assert "with other calibration images or float weights than there are now: start anew" in refused.stderr
    after = contents(tmp_path / "run")
    assert {name for name in before if after[name] != before[name]} <= {f".hydra/{each}.yaml" for each in HYDRA}
    np.save(tmp_path / "images.npy", images)
    assert entry("train", *words).returncode == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["model.factory=nets.py:smal"], "model.factory=nets.py:smal: nets.py has no smal; it has small"),
        (
            ["model.factory=nets.py:Reserved"],
            "Reserved has a submodule called preprocessing, as the captured model has",
        ),
        (["model.factory=nets.py:Fixed"], "model.factory=nets.py:Fixed: its num_classes cannot be set to 5 ("),
        (["model.input_size=null"], "model.input_size=None: give the shape of an image, such as [3,224,224]"),
        (["model.input_size=[1,16,16]"], "its forward on an image of [1, 16, 16] raised RuntimeError"),
        (["model.output=null"], "model.output=None: the model gives features, logits; name the one"),
        (["model.factory=sets:labelled"], "gives a TensorDataset: it must return an nn.Module"),
        (["data.factory=nets.py:small"], "it must return a Dataset with a length, or a LightningDataModule"),
        (
            ["data.factory=sets.py:Photos"],
            "data.factory=sets.py:Photos: a batch has no labels: give (images, labels)\n",
        ),
        (["data.factory=sets.py:Broken"], "data.factory: item 7 of 30 raised OSError: photo 7 is damaged"),
        (
            ["data.calibration=sets.py:Broken", "data.num_calibration=30"],
            "data.calibration: item 7 of 30 raised",
        ),
        (["data.calibration=sets.py:words"], "data.calibration gives a list to calibrate on: it must return a Dataset"),
        (["data.factory=sets:Flow", "data.limit=3"], "data.limit=3: the validation images of sets:Flow are no Dataset"),
        (["data.factory=sets:Several"], "data.factory=sets:Several: its val_dataloader gives 2 loaders: give one"),
        (["data.factory=sets:Shuffles"], "sets:Shuffles: its val_dataloader shuffles, and models are compared image"),
        (["data.factory=sets:Nothing"], "sets:Nothing: its val_dataloader gives a NoneType: give a loader"),
        (["data.factory=sets:Raises"], "data.factory=sets:Raises: its setup raised KeyError: 'photos'"),
        (["data.factory=sets.py:none"], "data.factory=sets.py:none gives no image"),
        (["data.factory=sets.py:beyond"], "an image has the label 77, the model has 5 outputs: give 0 to 4"),
        (["data.factory=sets.py:Named"], "labels are no numbers"),
        (["data.calibration=null"], "data.calibration is not given: give a function"),
        (["data.num_calibration=31"], "sets.py:Photos offers 30 images"),
        (["qat=lsq"], "data.training is not given"),
    ],
)
def test_bad_input_is_one_line(entry, options, line):
    done = entry("train", *RUN, *DATA, "data.calibration=sets.py:Photos", *options)
    assert done.returncode == 1
    assert line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
