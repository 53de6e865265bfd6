"""What the pages tell a reader to type works, and what they link to and name is there."""

import re
import tomllib

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from torch import nn

from attnround.cli.rows import plan
from attnround.study.sweep import read_sweep
from tests import processes
from tests.conftest import ROOT
from tests.pages import PAGES, TEXTS, anchors, blocks, commands, links, name_of

COMMANDS = sorted({each for text in TEXTS.values() for each in commands(text)})
RUNNING = [path for path in PAGES if blocks(TEXTS[path])]


@pytest.mark.parametrize(
    ("entry", "arguments"), COMMANDS, ids=lambda each: each if isinstance(each, str) else " ".join(each)
)
def test_a_command_composes(entry, arguments):
    overrides = [each for each in arguments if "=" in each and not each.startswith("-")]
    if entry == "sweep":  # its file and the options of a run
        (file,) = (each for each in arguments if "=" not in each)
        assert read_sweep(ROOT / file).name
        entry, overrides = "train", [each for each in overrides if not each.startswith("hydra.sweep.dir=")]
    # of several values the first stands for all: each option composes in tests/test_config.py
    first = [each if "[" in each or "{" in each else each.split(",")[0] for each in overrides]
    if entry == "train":
        assert plan("docs", [first], "the page")
        return
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose(entry, first, return_hydra_config=True)


def test_there_are_commands_of_every_entry():
    assert {entry for entry, _ in COMMANDS} == {"train", "evaluate", "verify", "export", "tables", "sweep"}
    assert len(COMMANDS) >= 40


@pytest.mark.parametrize("path", RUNNING, ids=name_of)
def test_the_python_of_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    if path.name == "README.md":  # whose lines are of a model and images that the reader has
        names |= {"model": nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), "images": torch.randn(32, 3, 4, 4)}
    for block in blocks(TEXTS[path]):
        exec(compile(block, name_of(path), "exec"), names)


def test_there_are_pages_with_python():
    assert {path.stem for path in RUNNING} >= {
        "README",
        "quickstart",
        "bits",
        "activations",
        "deployment",
        "own",
        "extending",
    }


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    for link in links(TEXTS[path]):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_make_targets_that_are_named_exist(path):
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^ *make ([a-z-]+)|`make ([a-z-]+)", TEXTS[path], re.M)):
        assert re.search(rf"^{''.join(target)}:", makefile, re.M), target


def test_every_page_is_in_the_navigation():
    text = re.search(r"^nav:\n(.*?)\n\n", (ROOT / "mkdocs.yml").read_text(), re.M | re.S)[1]
    named = re.findall(r"[\w-]+\.md", text)
    assert sorted(named) == sorted(path.name for path in PAGES if path.parent.name == "docs")


def test_the_api_reference_has_all_public_names():
    import attnround

    text = TEXTS[ROOT / "docs/api.md"]
    assert all(re.search(rf"^::: attnround\S*\.{name}$", text, re.M) for name in attnround.__all__)


def test_the_architecture_names_paths_that_exist():
    text = TEXTS[ROOT / "ARCHITECTURE.md"]
    paths = re.findall(r"`((?:src|conf|tests|docs|examples|benchmarks|results|assets|sweeps)/[^`]*)`", text)
    assert len(paths) >= 50
    for path in paths:
        assert (ROOT / path).exists(), path
    assert len(re.findall(r"^\*\*\.\.\. ", text, re.M)) == 12


def test_the_architecture_has_every_room():
    text = TEXTS[ROOT / "ARCHITECTURE.md"]
    for place in (ROOT / "src/attnround").iterdir():
        if place.name != "__init__.py" and (place.suffix == ".py" or (place / "__init__.py").exists()):
            assert re.search(rf"\b{place.stem}\b", text), place.name


def test_the_citation_is_of_this_version():
    import attnround

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == attnround.__version__
    assert citation["license"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    assert f"## [{attnround.__version__}]" in TEXTS[ROOT / "CHANGELOG.md"]


def test_the_command_for_ones_own_module_runs_as_it_stands(tmp_path):
    page = TEXTS[ROOT / "docs/own.md"]
    (tmp_path / "nets.py").write_text(next(block for block in blocks(page) if "def build" in block))
    (words,) = [words for entry, words in commands(page) if "model.factory=nets.py:build" in words and entry == "train"]
    done = processes.run([str(ROOT / "src/train.py"), *words, "quantizer.num_steps=5"], tmp_path)
    assert done.returncode == 0, done.stderr
