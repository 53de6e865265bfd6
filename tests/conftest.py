"""Fixtures that shrink the real thing: a small network, a folder of images, a run of the entry."""

import copy
import functools
import gc
import os
import site
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch import nn

import tests.shapes  # noqa: F401 (before the modules that it puts checks into)
from attnround.graph import Captured, capture
from tests import processes, remembered

ROOT = Path(__file__).resolve().parents[1]
os.environ["ATTNROUND_ROOT"] = str(ROOT)
os.environ["OMP_NUM_THREADS"] = "1"  # one test process a core
os.environ["WANDB_MODE"] = "offline"  # whatever a developer's shell says
torch.set_num_threads(1)
CAPTURED = tempfile.TemporaryDirectory()
os.environ[remembered.FOLDER] = CAPTURED.name
remembered.install()
settings.register_profile("steady", deadline=None)  # a busy machine is no failure
settings.load_profile("steady")


def pytest_collection_finish() -> None:
    """Libraries stay: no later collection of garbage looks through them."""
    gc.collect()
    gc.freeze()


def same_state(one: nn.Module, two: nn.Module) -> bool:
    """Whether two models hold the same tensors under the same names, bit for bit."""
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """val/ with two classes by index, and a calibration folder with images at two depths and one broken file."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)

    def write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)

    for name in ("0", "7"):
        for i in range(3):
            write(root / "val" / name / f"{i}.png")
    for i in range(6):
        write(root / "calibration" / ("deep/er" if i % 2 else ".") / f"{i}.png")
    (root / "calibration" / "broken.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """The bin folder of an environment with the wheel, which sees the libraries that are installed here."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # Built with the hatchling that is installed: nothing is fetched.
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place), str(ROOT)]
    subprocess.run(build, check=True, cwd=place)
    (wheel,) = place.glob("attnround-*.whl")
    venv.create(place / "env", symlinks=True)
    own = next((place / "env").glob("lib/python3*/site-packages"))
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(own), str(wheel)]
    subprocess.run(install, check=True, cwd=place)
    (libraries,) = {path for path in site.getsitepackages() if Path(path, "torch").exists()}
    (own / "zz_libraries.pth").write_text(libraries + "\n")  # behind the package's own folder
    script = place / "env/bin/attnround"
    script.write_text(f"#!{place / 'env/bin/python'}\nfrom attnround.cli.__main__ import main\nmain()\n")
    script.chmod(0o755)
    return place / "env/bin"


class Residual(nn.Module):
    """Small, with what real ones have: strides, groups, depthwise, a residual sum in place, a linear end."""

    def __init__(self, width: int = 8, num_classes: int = 5):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.grouped = nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        shortcut = x
        x = self.act(self.depthwise(x))
        x = self.grouped(x)
        x += shortcut
        x = self.act(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def network() -> Captured:
    model = copy.deepcopy(_network())
    torch.manual_seed(0)  # for what a test draws, whether the network was captured for this test or before
    return model


@functools.cache
def _network() -> Captured:
    torch.manual_seed(0)
    net = Residual()
    with torch.no_grad():
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
        net.norm.weight.uniform_(0.5, 2)
        net.norm.bias.normal_()
    return capture(net, torch.zeros(1, 3, 16, 16))


@pytest.fixture
def train(tmp_path):
    """Run src/train.py with these arguments in an empty folder, as a user would."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return processes.run([str(ROOT / "src/train.py"), *arguments], tmp_path, os.environ | environment)

    return run
