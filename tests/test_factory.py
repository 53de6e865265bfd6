"""Functions of one's own that options name: found, called, and told apart from what is not there."""

import sys

import pytest
import timm  # noqa: F401 (a file of this name would take its place)

from attnround.errors import InputError
from attnround.factory import made

NETS = """
import helpers

class Net:
    @staticmethod
    def tiny():
        return "tiny"

def small(width=8):
    return width + helpers.ONE

def lazy():
    from helpers import ONE
    return ONE


def broken():
    raise ValueError("no such file: weights.bin")

number = 3
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory, with a package, a file and a neighbour that it imports."""
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "mine"):
        folder.mkdir(exist_ok=True)
        (folder / "nets_of_ours.py").write_text(NETS)
        (folder / "helpers.py").write_text("ONE = 1\n")
    (tmp_path / "mine/bad_syntax.py").write_text("def (")
    (tmp_path / "timm.py").write_text(NETS)
    (tmp_path / "mine/needs.py").write_text("import no_such_library\n")
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("given", ["nets_of_ours", *(f"{each}nets_of_ours.py" for each in ("", "mine/", "{place}/"))])
def test_a_function_of_a_module_or_a_file_is_called(place, given):
    assert made("model.factory", f"{given.format(place=place)}:small", {"width": 12}) == 13


def test_a_function_may_import_a_neighbour_when_it_is_called(place):
    assert made("model.factory", "mine/nets_of_ours.py:lazy") == 1


def test_a_name_may_have_dots(place):
    assert made("model.factory", "nets_of_ours.py:Net.tiny") == "tiny"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("nets_of_ours", "give package.module:function, or path/to/file.py:function"),
        ("nets_of_ours.py:smal", "nets_of_ours.py has no smal; it has small"),
        ("nets_of_ours.py:number", "is a int: give a function or a class"),
        ("nets_of_ours:broken", "raised ValueError: no such file: weights.bin"),
        ("no_nets:small", "there is no module no_nets, neither installed nor in {place}"),
        ("gone/nets.py:small", "gone/nets.py is not there"),
        ("mine/bad_syntax.py:small", "running mine/bad_syntax.py raised SyntaxError: "),
        ("timm.py:small", "a module named timm is loaded already, "),
        ("mine/needs.py:small", "running mine/needs.py raised ModuleNotFoundError: No module named 'no_such_library'"),
    ],
)
def test_what_is_not_there_or_raises_is_one_line(place, given, line):
    with pytest.raises(InputError) as caught:
        made("model.factory", given)
    assert str(caught.value).startswith(f"model.factory={given}")
    assert line.format(place=place) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_arguments_that_do_not_fit_are_said(place):
    with pytest.raises(InputError, match=r"raised TypeError: .*depth"):
        made("model.factory", "nets_of_ours.py:small", {"depth": 3})
