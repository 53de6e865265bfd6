"""The report as a browser shows it: Debian's chromium, without a screen and without a network."""

import html
import json
import re
import shutil
import subprocess

import pytest
from tests.conftest import ROOT
from tests.study.pictures.test_draw import BARS, LINES, TIME, cells, grid
from tests.study.tables.made_up import GRID, make_cells

from attnround.study.report.write import report
from attnround.study.tables.table import Entry, Line, Table, json_lines, read_table
from attnround.study.tables.write import write_tables

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the report in: apt-get install chromium"),
]
# Put at the end of the page: writes down what was laid out, and what ordering a column by its title does.
PROBE = """<script>addEventListener("load", () => {
  const size = each => { const box = each.getBoundingClientRect(); return [box.width, box.height]; };
  const found = {
    sections: [...document.querySelectorAll("section")].map(each => [each.id, ...size(each)]),
    tables: [...document.querySelectorAll("section table")].map(size),
    pictures: [...document.images].map(each => [each.complete && each.naturalWidth, ...size(each)]),
    fetched: performance.getEntriesByType("resource").map(each => each.name),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
  const table = [...document.querySelectorAll("table")].at(-1), titles = [...table.tHead.rows[0].cells];
  found.orders = titles.map((title, column) => [0, 1, 2].map(() => {
    title.querySelector("button").click();
    return [title.getAttribute("aria-sort"), [...table.tBodies[0].rows].map(line => line.cells[column].textContent)];
  }));
  const box = document.querySelector(".table"), top = () => box.getBoundingClientRect().top;
  box.style.maxHeight = "8rem";
  box.scrollTop = 50;
  found.sticky = box.querySelector("th").getBoundingClientRect().top - top();
  document.body.dataset.found = JSON.stringify(found);
});</script></body>"""


NUMBERS = ["10", "9", "-0.5", "1e-3", "inf", "-"]


@pytest.fixture
def tables(tmp_path):
    """A folder of three tables, one with three pictures, one whose lines are to be ordered."""
    write_tables([(grid(LINES, BARS, TIME), cells()), (GRID, make_cells())], tmp_path)
    lines = []
    for label, text in zip((10, 9, 8, 100, 0.5, 1), NUMBERS, strict=True):
        number = Entry(text, "± 99", fields={"a": None if text == "-" else float(text)})
        lines.append(Line([Entry(str(label)), Entry(f"w{text}"), number], {}))
    table = Table("z", "Numbers", "make", ["label", "word", "number"], 2, [], {}, lines)
    (tmp_path / "z.jsonl").write_text(json_lines(table))
    return tmp_path


def opened(text: str, folder, width: int = 1200) -> tuple[dict, list[str]]:
    """What the probe found in a page, and what the browser's console said. No name is resolved to an address."""
    page = folder / "report.html"
    page.write_text(text.replace("</body>", PROBE), encoding="utf-8")
    flags = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900",
    ]  # fmt: skip
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])) if found else {}, said


def check(folder, tmp_path, width: int) -> dict:
    found, said = opened(report(folder), tmp_path, width)
    paths = sorted(folder.glob("*.jsonl"), key=lambda path: (path.stem != "headline", path.stem))
    tables = [read_table(path) for path in paths]
    assert said == []
    assert found["fetched"] == []
    assert [name for name, *_ in found["sections"]] == [table.name for table in tables]
    assert len(found["tables"]) == len(tables)
    assert len(found["pictures"]) == sum(len(table.pictures) for table in tables)
    for sizes in (*found["tables"], *found["pictures"], *(size for _, *size in found["sections"])):
        assert min(sizes) > 20
    assert abs(found["sticky"]) < 1  # the titles stay where the lines scroll
    assert found["overflow"] <= 0  # what is wide scrolls in its frame, not the page
    return found


@pytest.mark.parametrize("width", [1200, 500])
def test_everything_is_laid_out_and_nothing_is_fetched(tables, tmp_path, width):
    found = check(tables, tmp_path, width)
    assert len(found["pictures"]) == 3
    labels, words, numbers = found["orders"]
    assert [order for order, _ in numbers] == ["ascending", "descending", "none"]
    assert [cells for _, cells in labels] == [
        ["0.5", "1", "8", "9", "10", "100"], ["100", "10", "9", "8", "1", "0.5"], ["10", "9", "8", "100", "0.5", "1"],
    ]  # fmt: skip
    assert words[0][1] == words[1][1][::-1] != words[2][1] == [f"w{text}" for text in NUMBERS]
    assert [[cell.removesuffix(" ± 99") for cell in cells] for _, cells in numbers] == [
        ["-0.5", "1e-3", "9", "10", "inf", "-"], ["inf", "10", "9", "1e-3", "-0.5", "-"], NUMBERS,
    ]  # fmt: skip


def test_the_committed_tables(tmp_path):
    folder = ROOT / "results/tables"
    if not list(folder.glob("*.jsonl")):
        pytest.skip("no table is committed under results/tables")
    check(folder, tmp_path, 1200)


def test_what_is_wrong_with_a_page_is_seen(tables, tmp_path):
    """Else the silence above would mean nothing."""
    wrong = '<script>throw new Error("broken")</script><img src="https://example.org/a.png"></body>'
    found, said = opened(report(tables).replace("</body>", wrong), tmp_path)
    assert any("broken" in line for line in said)
    assert any("Content Security Policy" in line for line in said)
    assert min(min(sizes) for sizes in found["pictures"]) == 0
