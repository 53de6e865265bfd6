import ast
import itertools
import re

import matplotlib.pyplot as plt
import pytest
from tests.conftest import ROOT
from tests.study.pictures.test_draw import BARS, LINES, TIME, cells, grid

from attnround.experiment.style import COLOURS, HATCHES, MARKERS, RULES, bar_look, line_look, save, styled
from attnround.study.pictures.draw import draw_pictures

DRAWING = [*(ROOT / "src/attnround/study/pictures").glob("*.py"), ROOT / "src/attnround/experiment/pictures.py"]


def test_every_place_has_a_look_of_its_own_in_colour_and_in_grey():
    assert len(COLOURS) == len(MARKERS) == len(HATCHES) == 8
    for names in (COLOURS, MARKERS, HATCHES):
        assert len(set(names)) == len(names)
    for one, other in itertools.combinations(range(8), 2):
        assert line_look(one)["marker"] != line_look(other)["marker"]
        assert bar_look(one)["hatch"] != bar_look(other)["hatch"]


@pytest.mark.parametrize("path", DRAWING, ids=lambda path: path.name)
def test_colours_and_sizes_of_letters_are_those_of_the_style(path):
    """So that all pictures look alike: no colour by number or name, and two sizes of letters."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.fullmatch(r"#[0-9A-Fa-f]{6}|black|gr[ae]y|red|blue|green", node.value)
        if isinstance(node, ast.keyword) and node.arg in ("fontsize", "labelsize"):
            assert ast.unparse(node.value) in ("SMALL", "LARGE")


def test_a_picture_is_white_below_whatever_page_it_stands_on(tmp_path):
    """Its letters are dark: on a dark page nothing else would be read."""
    for path in draw_pictures(grid(LINES, BARS, TIME), cells(), tmp_path):
        if path.suffix == ".png":
            corner = plt.imread(path)[0, 0]
            assert corner.tolist() == [1, 1, 1, 1]
        else:
            assert re.search(r'<g id="patch_1">\s*<path [^>]*style="fill: #ffffff"', path.read_text())


@styled
def draw(path):
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    save(figure, [path.with_suffix(".png"), path.with_suffix(".svg")], "what it shows")
    return {name: plt.rcParams[name] for name in RULES}


def test_the_style_holds_within_a_drawing_and_not_after_it(tmp_path):
    before = dict(plt.rcParams)
    for name in ("a", "b"):
        assert draw(tmp_path / name) == RULES
    assert dict(plt.rcParams) == before
    for end in ("png", "svg"):
        assert (tmp_path / f"a.{end}").read_bytes() == (tmp_path / f"b.{end}").read_bytes()
        assert b"what it shows" in (tmp_path / f"a.{end}").read_bytes()


def test_lines_and_bars_beyond_the_colours_look_otherwise():
    for look in (line_look, bar_look):
        assert len({str(look(place)) for place in range(64)}) == 64
