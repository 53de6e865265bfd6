"""The report as a browser shows it: Debian's chromium, without a screen and without a network."""

import html
import json
import re
import shutil
import subprocess

import pytest
from tests.conftest import ROOT
from tests.study.pictures.test_draw import BARS, LINES, TIME, cells, grid
from tests.study.report.test_report import TABLE

from attnround.study.pictures.draw import draw_pictures
from attnround.study.report.write import read_tables, report

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
  const table = document.querySelector("table"), column = table.tHead.rows[0].cells.length - 1;
  found.orders = [0, 1].map(() => {
    table.tHead.rows[0].cells[column].querySelector("button").click();
    return [...table.tBodies[0].rows].map(line => line.cells[column].textContent);
  });
  document.body.dataset.found = JSON.stringify(found);
});</script></body>"""


@pytest.fixture
def tables(tmp_path):
    """A folder of two tables, the first with three pictures."""
    for name in ("table", "weights"):
        (tmp_path / f"{name}.md").write_text(TABLE)
    draw_pictures(grid(LINES, BARS, TIME), cells(), tmp_path)
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
    tables = read_tables(folder)
    assert said == []
    assert found["fetched"] == []
    assert [name for name, *_ in found["sections"]] == [table.name for table in tables]
    assert len(found["tables"]) == len(tables)
    assert len(found["pictures"]) == sum(len(table.pictures) for table in tables)
    for sizes in (*found["tables"], *found["pictures"], *(size for _, *size in found["sections"])):
        assert min(sizes) > 20
    assert found["overflow"] <= 0  # what is wide scrolls in its frame, not the page
    return found


@pytest.mark.parametrize("width", [1200, 500])
def test_everything_is_laid_out_and_nothing_is_fetched(tables, tmp_path, width):
    found = check(tables, tmp_path, width)
    assert len(found["pictures"]) == 3
    rising, falling = found["orders"]
    assert rising[0] == falling[0] == "-0.55 [-0.71, -0.40]"  # the only number
    assert sorted(rising) == sorted(falling)


def test_the_committed_tables(tmp_path):
    folder = ROOT / "results/tables"
    if not list(folder.glob("*.md")):
        pytest.skip("no table is committed under results/tables")
    check(folder, tmp_path, 1200)


def test_what_is_wrong_with_a_page_is_seen(tables, tmp_path):
    """Else the silence above would mean nothing."""
    wrong = '<script>throw new Error("broken")</script><img src="https://example.org/a.png"></body>'
    found, said = opened(report(tables).replace("</body>", wrong), tmp_path)
    assert any("broken" in line for line in said)
    assert any("Content Security Policy" in line for line in said)
    assert min(min(sizes) for sizes in found["pictures"]) == 0
