"""`make test-lowest` installs what pyproject.toml says, bound by bound."""

import tomllib

from tests.lowest import PROJECT, lowest


def test_every_requirement_has_its_lowest_version():
    project = tomllib.loads(PROJECT.read_text())["project"]
    found = dict(each.split("==") for each in lowest(project))
    assert set(found) >= {"torch", "torchvision", "timm", "numpy", "onnx", "submitit", "pytest"}
    assert project["name"] not in found
    assert all(f"{name}>={version}" in PROJECT.read_text() for name, version in found.items())
