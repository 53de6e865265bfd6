import base64
import csv
import io
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from tests.conftest import ROOT
from tests.study.tables.made_up import GRID, make_cells

from attnround.errors import InputError
from attnround.study.report.write import main, report
from attnround.study.tables.grid import Cell
from attnround.study.tables.published import Published
from attnround.study.tables.table import Entry, Line, Table, json_lines, read_table
from attnround.study.tables.write import put_into, write_tables

VOID = {"meta", "img", "br", "link", "input", "hr"}
SIZE = {"file": "size", "kind": "bars", "x": "weights", "y": "sqnr_db", "line": "method", "panel": "model"}
TIME = {"file": "time", "kind": "scatter", "x": "seconds", "y": "top1", "line": "method", "title": "Time & top-1"}
PICTURES = {"weights": (SIZE, TIME), "weights_low": (SIZE,), "headline": ()}
LSQ = Published("LSQ", "qat", 2, 32, None, "ResNet-18", 66.31, 70.0, "LSQ's page")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three tables with pictures; the second line failed, and a published number stands below some."""
    folder, cells = tmp_path_factory.mktemp("tables"), make_cells()
    lost = replace(
        cells[1].rows[0], error="out of memory", metrics={}, correct={}, git_revision="def456", device="H200"
    )
    cells[1] = Cell(cells[1].place, (lost,))
    grids = [replace(GRID, name=name, pictures=pictures) for name, pictures in PICTURES.items()]
    write_tables([(grid, cells) for grid in grids], folder, [LSQ])
    return folder


class Page(HTMLParser):
    """Checks that every element that is opened is closed in its turn; notes elements, text and the tables' cells."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.said, self.tables = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("table", "tr", "th", "td"):
            places = [self.tables]
            for _ in range(("table", "tr").index(tag) if tag in ("table", "tr") else 2):
                places.append(places[-1][-1])
            places[-1].append("" if tag in ("th", "td") else [])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)
        if {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def check_tables(folder) -> None:
    """Every table of a folder is in its page, with all it says."""
    page = Page(report(folder))
    paths = {path.stem: path for path in folder.glob("*.jsonl")}
    names = [each["id"] for each in page.all("section")]
    assert sorted(names) == sorted(paths)
    for name, (header, *lines) in zip(names, page.tables, strict=True):
        table = read_table(paths[name])
        assert header == table.header
        assert lines == [[entry.shown for entry in line.entries] for line in table.lines]
        for text in (table.caption, table.command, *table.notes):
            assert text in page.said


def test_the_page_is_whole_and_holds_every_table_and_picture(folder):
    text = report(folder)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>\n")
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    assert [each["id"] for each in page.all("section")] == ["headline", "weights", "weights_low"]
    assert [each["href"] for each in page.all("a")][:3] == ["#headline", "#weights", "#weights_low"]
    alts = ["SQNR of the logits, dB against weights", "Time & top-1", "SQNR of the logits, dB against weights"]
    assert [each["alt"] for each in page.all("img")] == alts
    check_tables(folder)


def test_the_committed_tables_are_in_their_page():
    check_tables(ROOT / "results/tables")


def test_nothing_is_fetched(folder):
    page = Page(report(folder))
    assert not page.all("link")
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    (policy,) = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    assert policy.startswith("default-src 'none'")
    assert "url(" not in report(folder)


def test_it_reads_on_a_phone_and_in_the_dark(folder):
    text = report(folder)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in Page(text).all("meta")
    assert "@media (prefers-color-scheme: dark)" in text


def test_the_data_of_a_table_can_be_taken_from_the_page(folder):
    files = {each["download"]: each["href"] for each in Page(report(folder)).all("a") if "download" in each}
    assert sorted(files) == sorted(f"{name}.{end}" for name in PICTURES for end in ("csv", "tex"))
    for name, address in files.items():
        text = base64.b64decode(address.partition(";base64,")[2]).decode()
        assert text == (folder / name).read_text()
    assert len(list(csv.DictReader(io.StringIO((folder / "weights.csv").read_text())))) == len(make_cells()) + 1


def test_a_cell_is_ordered_by_its_number(folder):
    values = [each.get("data-value") for each in Page(report(folder)).all("td")]
    entries = [entry for line in read_table(folder / "headline.jsonl").lines for entry in line.entries[1:]]
    for value, entry in zip(values, entries, strict=False):
        assert value == (None if entry.value is None else str(entry.value))


def test_where_it_comes_from_is_told_at_the_top(folder):
    facts = "".join(Page(report(folder)).said).split("Contents")[0]
    runs = sum(len(cell.rows) for cell in make_cells()) - 2  # of one cell there is but one
    for fact in ("3 tables", "3 pictures", f"{runs} runs", "revisions abc123, def456", "AMD EPYC, 2 cores", "H200"):
        assert fact in facts


def test_numbers_stand_right_and_published_and_failed_lines_are_marked(folder):
    page = Page(report(folder))
    titles = [each.get("class") for each in page.all("th") if each.get("scope") == "col"]
    assert titles[:14] == [None] * 3 + ["number"] * 11
    lines = [each.get("class") for each in page.all("tr")][1:14]
    assert lines == ["first", "failed", None, None, None, None, "published", "first", None, None, None, None, None]
    assert len(page.all("strong")) == sum("**" in cell for name in PICTURES for cell in bold(folder, name))


def bold(folder, name: str) -> list[str]:
    """The cells below the header of a table in Markdown."""
    return [cell for line in (folder / f"{name}.md").read_text().split("| --- |")[1:] for cell in line.split(" | ")]


def test_the_same_files_give_the_same_page(folder, tmp_path):
    for name in ("a", "b"):
        main(str(folder), str(tmp_path / f"{name}.html"))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("name", [".", "missing"])
def test_a_folder_without_a_table_is_named(tmp_path, name):
    with pytest.raises(InputError, match="holds no table"):
        report(tmp_path / name)


def plain(text: str) -> Table:
    """A table that says this everywhere."""
    entries = [Entry(text, text, text, True), Entry("1", fields={"a": 1.0})]
    lines = [Line(entries, {"git_revision": "abc", "device": text}), Line(entries, {"device": text}, "published")]
    return Table("one", text, text, [text, "b"], 1, [text], {"one_a": text}, lines)


def test_a_picture_that_is_missing_or_damaged_is_named(tmp_path):
    (tmp_path / "one.jsonl").write_text(json_lines(plain("x")))
    with pytest.raises(InputError, match=r"one_a\.svg is missing"):
        report(tmp_path)
    for content in (b"", b"\xff", b"<svg><g></svg>"):
        (tmp_path / "one_a.svg").write_bytes(content)
        with pytest.raises(InputError, match=r"one_a\.svg is damaged: make tables writes it anew"):
            report(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\n", b"3\n", json_lines(plain("x"))[:-20].encode(), json_lines(plain("x")).split("\n")[0].encode(),
        "".join(json_lines(plain("x")).splitlines(keepends=True)[:-1]).encode(),
        json_lines(plain("x")).replace('"x"', "4").encode(),
    ],
    ids=["empty", "no text", "no table", "cut off", "without a line", "a line short", "no words"],
)  # fmt: skip
def test_a_table_that_is_damaged_is_named(tmp_path, content):
    (tmp_path / "one.jsonl").write_bytes(content)
    line = r"one\.jsonl is no table that can be read: make tables TABLE=one writes it anew$"
    with pytest.raises(InputError, match=line):
        report(tmp_path)
    with pytest.raises(InputError, match=line):
        put_into("<!-- table one -->\n<!-- end -->", tmp_path)


def test_a_page_that_cannot_be_written_is_one_line(folder, tmp_path):
    with pytest.raises(InputError, match=r"there/page\.html: it cannot be written \(No such file or directory\): give"):
        main(str(folder), str(tmp_path / "there/page.html"))
    with pytest.raises(InputError, match="third: give the folder of the tables, the page, and nothing else"):
        main(str(folder), str(tmp_path / "page.html"), "third")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\" onclick=\"alert(1)", "' onclick='alert(1)",
        "</title></h2><b>", "&lt;b&gt;", "{{ 1 + 1 }}", "{% raw %}", "**<b>**", "[x](javascript:alert)",
    ],
)  # fmt: skip
def test_what_anyone_types_becomes_text_and_no_code(tmp_path, text):
    (tmp_path / "one_a.svg").write_text("<svg/>")
    pages = []
    for said in (text, "plain"):
        (tmp_path / "one.jsonl").write_text(json_lines(plain(said)))
        pages.append(Page(report(tmp_path)))
    shapes = [[(tag, sorted(attributes)) for tag, attributes in page.elements] for page in pages]
    assert shapes[0] == shapes[1]
    assert "".join(pages[0].said).count(text) == "".join(pages[1].said).count("plain")
