"""The package as `pip install` gives it: a wheel, installed into a fresh environment, run outside the checkout.

The environment sees the libraries that are installed here, so that nothing is fetched; the package itself comes from
the wheel alone.
"""

import json
from pathlib import Path

from tests.processes import run_outside

LIBRARY = """
import pathlib, sys, torch, attnround
from torch import nn
assert pathlib.Path(attnround.__file__).is_relative_to(sys.prefix), attnround.__file__
net, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3)), torch.randn(8, 3, 6, 6)
found = attnround.quantize(net, images, rounding="gptq", progress=False)
found.save("q.safetensors")
assert torch.equal(attnround.load("q.safetensors", model=net)(images), found.model(images))
"""
BLOCKED = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hydra", "omegaconf"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


def test_the_library_and_the_main_entry_run_from_the_wheel(installed, tmp_path):
    done = run_outside([installed / "python", "-c", LIBRARY], tmp_path)
    assert done.returncode == 0, done.stderr

    short = ["quantizer=gptq", "data.limit=200", "data.num_calibration=64", "hydra.run.dir=run"]
    done = run_outside([installed / "attnround", "train", *short], tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/record.json").read_text())
    assert Path(record["config"]["paths"]["shipped"]).is_relative_to(installed.parent)
    assert record["config"]["paths"]["root"] == str(tmp_path)
    assert record["metrics"]["fp32/top1"] >= 90


def test_a_timm_model_without_the_suite_is_a_line(installed, tmp_path):
    code = BLOCKED.replace('"hydra", "omegaconf"', '"timm"') + "\nimport attnround.zoo\nattnround.zoo.TimmModel"
    done = run_outside([installed / "python", "-c", code], tmp_path)
    assert done.stderr.strip().endswith("InputError: TimmModel needs timm: pip install 'attnround[suite]'")


def test_an_entry_that_lacks_its_extra_says_which(installed, tmp_path):
    code = f"{BLOCKED}\nsys.argv = ['attnround', 'train']\nfrom attnround.cli.__main__ import main\nmain()"
    done = run_outside([installed / "python", "-c", code], tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: attnround train needs hydra: pip install 'attnround[suite]'"
