"""Imports go one way, from the entries to the grid: what each room may import is written here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "src/attnround"
GROUND = ("errors", "factory", "files", "lazy", "machine", "progress", "table", "typed")
MAY_IMPORT = {
    **{room: set() for room in GROUND},
    "quantization": set(),
    "ranks": set(),
    "crew": {"ranks"},
    "trainer": {"ranks"},
    "graph": {"quantization"},
    "zoo": {"graph"},
    "data": {"ranks"},
    "bits": {"quantization"},
    "calibration": {"graph", "quantization", "ranks"},
    "evaluation": {"data", "graph", "quantization", "ranks", "trainer"},
    "problem": {"bits", "calibration", "graph", "quantization"},
    "reconstruction": {"calibration", "graph", "quantization", "ranks", "trainer"},
    "training": set(),
    "qat": {"graph", "quantization", "trainer", "training"},
    "deploy": {"evaluation", "graph", "quantization", "zoo"},
    "prepared": {
        "bits", "calibration", "data", "evaluation", "graph", "problem", "quantization", "reconstruction", "zoo",
    },
    "quantized": {
        "bits", "data", "deploy", "evaluation", "graph", "prepared", "qat", "quantization", "reconstruction", "trainer",
    },
    "api": {"bits", "data", "graph", "prepared", "quantization", "quantized", "reconstruction", "zoo"},
    "experiment": {
        "bits", "calibration", "crew", "data", "deploy", "evaluation", "graph", "prepared", "qat", "quantization",
        "ranks", "reconstruction", "trainer", "training", "zoo",
    },
    "study": {"evaluation", "experiment"},
    "cli": {"experiment", "reconstruction", "study"},
}  # fmt: skip
OUTSIDE = {
    "hydra": {"cli"},
    "omegaconf": {"cli"},
    "lightning_fabric": {"crew"},
    "pytorch_lightning": {"data", "evaluation", "experiment", "qat", "reconstruction", "trainer", "training"},
    "timm": {"zoo", "data"},
    "torchvision": {"data"},
    "wandb": {"experiment"},
    "tensorboard": {"experiment"},
    "mlflow": {"experiment"},
    "matplotlib": {"experiment", "study"},
    "jinja2": {"study"},
    "jaxtyping": {"quantization"},
    "onnx": {"deploy", "experiment"},
    "onnxruntime": {"deploy", "experiment"},
    "submitit": {"study"},
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
    assert own <= MAY_IMPORT[room] | {*GROUND, room}


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


def top_of(file: Path) -> set[str]:
    """The packages that a file imports before any of its functions is called."""
    tree = ast.parse(file.read_text())
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    return top | {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("entry", sorted((ROOT / "src").glob("*.py")), ids=lambda file: file.name)
def test_a_script_is_the_entry_of_its_name_and_nothing_else(entry):
    """What lies beside the package is on the path of whoever runs a script: nothing there but the scripts."""
    assert top_of(entry) == {f"attnround.cli.{entry.stem}"}


@pytest.mark.parametrize("file", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda file: file.name)
def test_an_entry_imports_nothing_heavy_at_the_top(file):
    light = {"attnround.errors", "attnround.files", "attnround.lazy"}
    for name in top_of(file):
        package = name.split(".")[0]
        ours = name in light or name.startswith("attnround.cli")
        assert ours or package in {*sys.stdlib_module_names, "hydra", "omegaconf"}, name


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
