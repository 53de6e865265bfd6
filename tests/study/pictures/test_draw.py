import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from attnround.errors import InputError
from attnround.study.pictures.draw import draw_pictures, panels_of
from attnround.study.pictures.wanted import pictures_of
from attnround.study.row import Row
from attnround.study.tables.grid import Cell, Grid

AXES = {
    "model": ("resnet", "mobilenet"),
    "images": ("64", "1024", "256"),
    "method": ("GPTQ", "Attention Round"),
    "weights": ("W4",),
}
FP32 = {"resnet": 94.0, "mobilenet": 92.0}
LINES = {"file": "images", "kind": "lines", "x": "images", "y": "top1", "line": "method", "panel": "model"}
TIME = {"file": "time", "kind": "scatter", "x": "seconds", "y": "top1", "line": "method", "panel": "model"}
BARS = {"file": "bars", "kind": "bars", "x": "images", "y": "drop", "line": "method", "panel": "model"}


def grid(*pictures) -> Grid:
    axes = {axis: dict.fromkeys(labels, ()) for axis, labels in AXES.items()}
    return Grid("table", "A table", axes, (0, 1), "method", "Attention Round", ("top1",), pictures)


def row(seed: int, metrics: dict, error: str | None = None) -> Row:
    return Row("0" * 12, "", {}, seed, error, metrics, {}, "cpu", 1, "abc", "2026-01-01", {}, {})


def rows(place: dict) -> tuple[Row, ...]:
    """Two seeds, 0.2 apart in top-1; Attention Round one point better."""
    top1 = FP32[place["model"]] - 64 / int(place["images"]) - (place["method"] == "GPTQ")
    return tuple(
        row(
            seed,
            {
                "fp32/top1": FP32[place["model"]],
                "quantized/top1": top1 + 0.2 * seed,
                "bits/size_mib": 0.3,
                "time/scales_s": 1.0,
                "time/reconstruction_s": int(place["images"]) / 10,
                "time/total_s": 99.0,
            },
        )
        for seed in (0, 1)
    )


def cells() -> list[Cell]:
    places = [dict(zip(AXES, labels, strict=True)) for labels in itertools.product(*AXES.values())]
    return [Cell(place, rows(place)) for place in places]


def panels(entry: dict, of: list[Cell] | None = None):
    table = grid(entry)
    return panels_of(pictures_of(table)[0], table, cells() if of is None else of)


def text_of(path) -> str:
    return " ".join(
        "".join(each.itertext()) for each in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    )


def test_a_png_and_an_svg_a_picture_and_the_same_bytes_again(tmp_path):
    table = grid(LINES | {"scale": "log2", "title": "Top-1 for $5 & more"}, BARS, TIME | {"scale": "log10"})
    names = [f"table_{name}.{end}" for name in ("images", "bars", "time") for end in ("png", "svg")]
    (tmp_path / "again").mkdir()
    first, again = (draw_pictures(table, cells(), folder) for folder in (tmp_path, tmp_path / "again"))
    assert [path.name for path in first] == names
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.read_bytes().startswith(b"\x89PNG" if one.suffix == ".png" else b"<?xml")
    said = text_of(tmp_path / "table_images.svg")
    for word in ("Top-1 for $5 & more", "resnet", "mobilenet", "GPTQ", "Attention Round", "FP32", "top-1, %", "1024"):
        assert word in said
    assert "drop" not in text_of(tmp_path / "table_bars.svg")  # it is called by what it means
    assert "256" in text_of(tmp_path / "table_time.svg")  # the axis that is no line names the points
    assert not re.search("dc:date|Matplotlib v", (tmp_path / "table_time.svg").read_text())


@pytest.mark.parametrize("kind", ["lines", "bars"])
def test_a_label_may_begin_as_those_that_matplotlib_hides(tmp_path, kind):
    of = [Cell(cell.place | {"method": f"_{cell.place['method']}"}, cell.rows) for cell in cells()]
    table = grid(LINES | {"kind": kind})
    table.axes["method"] = {f"_{label}": () for label in AXES["method"]}
    draw_pictures(table, of, tmp_path)
    for label in table.axes["method"]:
        assert label in text_of(tmp_path / "table_images.svg")


def test_points_are_means_with_a_standard_deviation_ascending_in_x():
    first, second = panels(LINES)
    assert (first.title, first.level, second.title, second.level) == ("resnet", 94.0, "mobilenet", 92.0)
    gptq, ours = first.lines
    assert [(line.label, line.strong) for line in (gptq, ours)] == [("GPTQ", False), ("Attention Round", True)]
    assert [point.x for point in ours.points] == [64, 256, 1024]
    assert [point.y for point in ours.points] == pytest.approx([93.1, 93.85, 94.0375])
    assert [point.y_spread for point in ours.points] == pytest.approx([0.2 / math.sqrt(2)] * 3)


def test_a_metric_as_x_takes_every_cell_and_names_it():
    points = panels(TIME)[0].lines[0].points
    assert [(point.x, point.name) for point in points] == [(7.4, "64"), (26.6, "256"), (103.4, "1024")]


def test_bars_stand_in_the_order_of_the_labels():
    panel = panels(BARS)[0]
    points = [(point.x, round(point.y, 4)) for point in panel.lines[1].points]
    assert points == [(0, 0.9), (1, -0.0375), (2, 0.15)]  # 64, 1024, 256
    assert panel.level is None


def test_only_keeps_labels_and_their_colours():
    (panel,) = panels(LINES | {"only": {"model": "mobilenet", "method": ["Attention Round"]}})
    assert [(line.label, line.place) for line in panel.lines] == [("Attention Round", 1)]
    assert panel.title == "mobilenet"


def test_failed_and_missing_runs_are_left_out(tmp_path):
    some = cells()
    some[0] = Cell(some[0].place, (row(0, {}, "out of memory"), some[0].rows[1]))
    some[1] = Cell(some[1].place, (row(0, {}, "out of memory"),))  # Attention Round with 64 images
    some[2] = Cell(some[2].place, ())  # GPTQ with 1024
    gptq, ours = panels(LINES, some)[0].lines
    assert (gptq.points[0].y, gptq.points[0].y_spread) == (92.2, 0)
    assert [point.x for point in gptq.points] == [64, 256]
    assert [point.x for point in ours.points] == [256, 1024]


def test_without_a_row_there_is_no_picture_and_no_old_one(tmp_path):
    table = grid(LINES)
    assert draw_pictures(table, cells(), tmp_path)
    assert draw_pictures(table, [Cell(cell.place, ()) for cell in cells()], tmp_path) == []
    assert not list(tmp_path.iterdir())


WRONG = {
    "kind=pie: give one of lines, bars, scatter": LINES | {"kind": "pie"},
    "x=sgima: give one of model, images, method, weights, top1": LINES | {"x": "sgima"},
    "y=top5: give one of top1": LINES | {"y": "top5"},
    "y=weights: give one of": LINES | {"y": "weights"},
    "line=methd: give one of model, images, method, weights": LINES | {"line": "methd"},
    "panel=3": LINES | {"panel": 3},
    "scale=log: give one of linear, log2, log10": LINES | {"scale": "log"},
    "key=colour: give one of file, kind, x, y": LINES | {"colour": "red"},
    "x=mib: give one of model": BARS | {"x": "mib"},
    "only=vgg: give one of": LINES | {"only": {"vgg": 1}},
    "only.model=vgg: give one of resnet, mobilenet": LINES | {"only": {"model": "vgg"}},
    "only=resnet: give a mapping": LINES | {"only": "resnet"},
    "x=method has the label GPTQ: give an axis of numbers": LINES | {"x": "method", "line": "images"},
    "several labels of method would share a place": {key: LINES[key] for key in LINES if key != "line"},
    "has no y": {key: LINES[key] for key in LINES if key != "y"},
    "title=3: give a text, in quotes": LINES | {"title": 3},
    "x_name=[]: give a text": LINES | {"x_name": []},
    "letters, digits": LINES | {"file": "../images"},
    "give a mapping": "sigma",
}


@pytest.mark.parametrize("says", WRONG)
def test_a_wrong_picture_is_one_line_that_names_the_table_and_what_is_allowed(says):
    with pytest.raises(InputError) as error:
        pictures_of(grid(TIME, WRONG[says]))
    message = str(error.value)
    assert message.startswith("table table, picture ")
    assert says in message
    assert "\n" not in message


def test_two_pictures_of_one_name_are_refused():
    with pytest.raises(InputError, match="picture time: another picture has this file"):
        pictures_of(grid(TIME, TIME))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_seeds_without_a_finite_value_leave_no_point_in_place_of_one_that_flatters(value):
    of, before = cells(), sum(len(line.points) for panel in panels(LINES) for line in panel.lines)
    metrics = of[0].rows[1].metrics | {"quantized/top1": value}
    of[0] = Cell(of[0].place, (of[0].rows[0], row(1, metrics)))
    assert sum(len(line.points) for panel in panels(LINES, of) for line in panel.lines) == before - 1


@pytest.mark.parametrize("label", ["0", "-1", "nan", "inf"])
def test_a_logarithm_needs_numbers_above_zero(label):
    table = grid(LINES | {"scale": "log2"})
    table.axes["images"][label] = ()
    with pytest.raises(InputError, match=f"has the label {label}: give an axis of numbers above 0 for log2"):
        pictures_of(table)
