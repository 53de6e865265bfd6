"""The folder of a finished run, without the minutes that a run takes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.conftest import ROOT
from tests.deploy.conftest import exported
from tests.experiment.test_card import RECORD

from attnround.data import FashionMNIST
from attnround.deploy import fingerprint, save
from attnround.experiment.record import Run

DATA = {"root": str(ROOT / "assets/fashion_mnist"), "limit": 40, "num_calibration": 4, "batch_size": 20, "seed": 0}


def data() -> FashionMNIST:
    return FashionMNIST(**DATA)


def run_with(folder: Path) -> Run:
    return Run("verify", {"data": "fashion_mnist"}, 0, False, {"data": DATA}, "", folder, ROOT)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Its folder, which is read and not written."""
    folder = tmp_path_factory.mktemp("run")
    model, about = exported("resnet")
    deployed = save(model, folder / "quantized.safetensors", about)
    images = data()
    images.match(model.preprocessing, model.num_classes)
    with torch.no_grad():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in images.val_dataloader())
    parts = RECORD["deployed"]["parts"]
    record = RECORD | {
        "deployed": deployed | {"fingerprint": fingerprint(model), "parts": parts},
        "metrics": RECORD["metrics"] | {"quantized/top1": 100 * right / 40},
        "config": {"model": {"name": "resnet18"}, "data": DATA, "paths": {"root": str(ROOT)}},
    }
    (folder / "record.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")
