"""Imports go one way, from the entries to the grid: what each room may import is written here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "src/attnround"
LEAVES = {"errors", "files", "lazy", "machine"}
MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "lazy": set(),
    "machine": set(),
    "quantization": set(),
    "results": set(),
    "progress": set(),
    "tracking": {"results"},
    "logs": {"results", "tracking"},
    "trainer": {"progress"},
    "data": set(),
    "bits": {"quantization"},
    "graph": {"quantization"},
    "models": set(),
    "training": set(),
    "qat": {"graph", "quantization", "trainer", "training"},
    "evaluation": {"data", "graph", "quantization", "trainer"},
    "reconstruction": {"graph", "bits", "quantization", "progress", "trainer"},
    "deploy": {"evaluation", "graph", "models", "quantization", "results"},
    "checks": {"data", "deploy", "evaluation", "progress", "results", "trainer"},
    "export": {"checks", "data", "deploy", "results"},
    "prepared": {"bits", "data", "evaluation", "graph", "models", "quantization", "reconstruction"},
    "quantized": {
        "bits", "data", "deploy", "evaluation", "graph", "prepared", "progress", "qat", "quantization",
        "reconstruction", "results", "trainer",
    },
    "api": {"bits", "data", "graph", "models", "prepared", "progress", "quantization", "quantized", "reconstruction"},
    "pipeline": {
        "prepared", "bits", "data", "deploy", "evaluation", "graph", "logs", "models", "qat", "quantization",
        "reconstruction", "results", "trainer", "training",
    },
}  # fmt: skip
OUTSIDE = {
    "hydra": set(),
    "omegaconf": set(),
    "pytorch_lightning": {
        "pipeline",
        "data",
        "reconstruction",
        "training",
        "qat",
        "evaluation",
        "trainer",
        "logs",
        "tracking",
    },
    "timm": {"models", "data"},
    "torchvision": {"data"},
    "wandb": {"tracking"},
    "matplotlib": {"results"},
    "jaxtyping": {"quantization"},
    "onnx": {"deploy", "export"},
    "onnxruntime": {"deploy", "export"},
}


def imports(room: str) -> set[str]:
    """Every module that a room's files import, at any depth of the code."""
    place = PACKAGE / room
    files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    return set().union(*map(imports_of, files))


def imports_of(file: Path) -> set[str]:
    """The same for a file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def rooms() -> list[str]:
    return sorted(each.stem for each in PACKAGE.iterdir() if each.suffix == ".py" or (each / "__init__.py").exists())


def test_every_room_has_its_line():
    assert set(rooms()) - {"__init__"} == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_is_below_it(room):
    own = {name.split(".")[1] for name in imports(room) if name.startswith("attnround.")}
    assert own <= MAY_IMPORT[room] | LEAVES | {room}


@pytest.mark.parametrize("package", OUTSIDE)
def test_libraries_stay_in_their_rooms(package):
    users = {room for room in MAY_IMPORT if package in {name.split(".")[0] for name in imports(room)}}
    assert users <= OUTSIDE[package]


def test_reconstruction_needs_no_lightning():
    """The one file that drives it by Lightning's Trainer is imported by those that want that."""
    lightning = PACKAGE / "reconstruction/lightning.py"
    for file in (PACKAGE / "reconstruction").glob("*.py"):
        above = {"pytorch_lightning", "attnround.trainer", "attnround.reconstruction.lightning"} & imports_of(file)
        assert file == lightning or not above, file
    code = "import sys, attnround.reconstruction; sys.exit('pytorch_lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


ENTRIES = sorted(each.name for each in (ROOT / "src").glob("*.py"))


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_imports_nothing_heavy_at_the_top(entry):
    tree = ast.parse((ROOT / "src" / entry).read_text())
    top = {alias.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    top |= {node.module.split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert top <= {*sys.stdlib_module_names, "hydra", "omegaconf", *(name.removesuffix(".py") for name in ENTRIES)}


def test_the_package_itself_is_light():
    """`import attnround` costs nothing; torch comes with the first model."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    top = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert not any(isinstance(node, ast.Import) for node in tree.body)
    assert top <= {"__future__", "typing"}


LIBRARY = """
import sys, torch, attnround
from torch import nn
net, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3)), torch.randn(8, 3, 6, 6)
found = attnround.quantize(net, images, rounding="gptq", activation=8, progress=False)
found.save(sys.argv[1])
assert torch.equal(attnround.load(sys.argv[1], model=net)(images), found.model(images))
assert not found.verify().faults
print(*(name for name in sys.argv[2:] if name in sys.modules))
"""


def test_the_library_needs_none_of_the_suites_packages(tmp_path):
    """Who quantizes a module of his own waits for torch alone."""
    unwanted = ["hydra", "matplotlib", "onnx", "onnxruntime", "pytorch_lightning", "timm", "torchvision", "wandb"]
    command = [sys.executable, "-c", LIBRARY, str(tmp_path / "q.safetensors"), *unwanted]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
