import html
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from attnround.errors import InputError
from attnround.study.report.markup import inline, page_part
from attnround.study.report.write import main, read_tables, report

VOID = {"meta", "img", "br", "link", "input", "hr"}
TABLE = """**W3 < W4, & more \\| here**

| model | method | top-1 % | minus ours |
| --- | --- | --- | --- |
| net | Attention Round | **93.65 ± 0.03** | reference |
| net | a\\|b \\<script>alert(1)\\</script> | 93.10 ± 0.04 | -0.55 [-0.71, -0.40] |
| net | QDrop (published PTQ, README) | 92.00 | - |
| mobile | GPTQ | failed: out of memory | - |

- `make tables TABLE=weights` makes this table.
- 3 rows, on a CPU; see [the paper](https://arxiv.org/abs/2207.03088) and [here](../rows/a.json).
"""
SVG = """<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="300pt" height="150pt" viewBox="0 0 9 9">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{} &amp; more</dc:title></metadata>
<rect width="300" height="150" fill="#0072B2"/></svg>
"""
CSV = 'model,config_hashes,git_revision,device\nnet,aa bb,abc123,"EPYC, 2 cores"\nmobile,bb cc,abc123 def456,H200\n'


@pytest.fixture
def folder(tmp_path):
    for name in ("weights", "weights_low", "headline"):
        (tmp_path / f"{name}.md").write_text(TABLE)
    (tmp_path / "weights.csv").write_text(CSV)
    for name in ("weights_size", "weights_low_size", "weights_time"):
        (tmp_path / f"{name}.svg").write_text(SVG.format(name))
    return tmp_path


class Page(HTMLParser):
    """Checks that every element that is opened is closed in its turn, and notes elements, ids and text."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.said = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_is_whole_and_holds_every_table_and_picture(folder):
    text = report(folder)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>\n")
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    sections = [each["id"] for each in page.all("section")]
    assert sections == ["headline", "weights", "weights_low"]
    assert [each["href"] for each in page.all("a")][:3] == ["#headline", "#weights", "#weights_low"]
    assert len(page.all("table")) == 3
    images = page.all("img")
    assert [each["alt"] for each in images] == [
        "weights_size & more", "weights_time & more", "weights_low_size & more",
    ]  # fmt: skip
    assert {(each["width"], each["height"]) for each in images} == {("400", "200")}
    assert all(each["src"].startswith("data:image/svg+xml;base64,") for each in images)


def test_nothing_is_fetched(folder):
    page = Page(report(folder))
    assert not page.all("link")
    assert not any("src" in each for each in page.all("script"))
    targets = [each["href"] for each in page.all("a")]
    assert all(target.startswith(("#", "https://arxiv.org/")) for target in targets)  # no file that may not be there
    (policy,) = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    assert policy.startswith("default-src 'none'")


def test_what_a_table_says_is_text_and_no_code(folder):
    page = Page(report(folder))
    assert len(page.all("script")) == 1  # our own
    said = "".join(page.said)
    for words in ("W3 < W4, & more | here", "a|b <script>alert(1)</script>", "make tables TABLE=weights"):
        assert words in said


def test_where_it_comes_from_is_told_at_the_top(folder):
    facts = "".join(Page(report(folder)).said).split("Contents")[0]
    for fact in ("3 tables", "3 pictures", "3 runs", "revisions abc123, def456", "EPYC, 2 cores", "H200"):
        assert fact in facts


def test_a_picture_belongs_to_the_table_with_the_longest_name(folder):
    assert {table.name: [path.stem for path in table.pictures] for table in read_tables(folder)} == {
        "headline": [],
        "weights": ["weights_size", "weights_time"],
        "weights_low": ["weights_low_size"],
    }


def test_the_same_files_give_the_same_page(folder, tmp_path):
    for name in ("a", "b"):
        main(str(folder), str(tmp_path / f"{name}.html"))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("name", [".", "missing"])
def test_a_folder_without_a_table_is_named(tmp_path, name):
    with pytest.raises(InputError, match="holds no table"):
        report(tmp_path / name)


def test_numbers_stand_right_and_published_and_failed_lines_are_marked():
    page = Page(page_part(TABLE))
    assert [each.get("class") for each in page.all("tr")] == [None, "first", None, "published", "first failed"]
    assert [each.get("class") for each in page.all("th") if each.get("scope") == "col"] == [
        None, None, "number", "number",
    ]  # fmt: skip
    assert len(page.all("strong")) == 2  # the caption, and the best


LONG = 200_000  # characters: what takes a scan for each of them would take minutes
# What is typed again and again -> what each of it leaves to read, blanks aside
TYPED = {
    "[": "[", r"\[": "[", "**": "**", "*": "*", "`": "`", "![": "![", "[a](": "[a](", "|": "|", "-": "-", " ": "",
    "\n \n": "", "** **": "", r"\\": "\\", "[a](b": "[a](b", "![a](": "![a](", "**a* ": "**a*", "]": "]", "<b>": "<b>",
    "[a](b)": "a", "![a](b)": "", "**a** ": "a", "`a`": "a", "# a\n": "a", "a\n": "a", "a\n\n": "a", " ± 1": "±1",
    "\"'&": "\"'&",
}  # fmt: skip


def said(rendered: str) -> str:
    """The text of HTML, blanks aside."""
    return "".join(html.unescape(re.sub("<[^>]*>", "", rendered)).split())


@pytest.mark.parametrize("typed", TYPED)
def test_any_text_is_rendered_however_long(typed):
    count = LONG // len(typed)
    assert said(page_part(typed * count)) == TYPED[typed] * count
    assert said(inline(typed.replace("\n", " ") * count)).replace("#", "") == TYPED[typed] * count


@pytest.mark.parametrize("typed", TYPED)
def test_a_table_of_any_text_is_rendered_however_long(typed):
    text = typed.replace("\n", " ") * (LONG // 4 // len(typed))
    for lines in ([text, "|---|", "1"], ["1", "|---|", text], ["1", f"{text}-", "1"]):
        Page(page_part("\n".join(lines)))


def test_a_table_of_many_columns_and_lines_is_rendered():
    rendered = page_part("\n".join(["|" * LONG, "|---|", *["|1|"] * 50_000]))
    assert rendered.count("<tr") == 50_001


@pytest.mark.parametrize(
    "caption",
    [
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\" onclick=\"alert(1)", "</title></h2><b>",
        "&lt;b&gt;", "`</code><script>`", "**<b>**", "[<b>](https://e.org/)", "![<b>](x.png)",
        "[x](https://e.org/\"onclick=\"alert)", "[x](javascript:alert)", "[x](JAVASCRIPT:alert)",
        "[x](data:text/html,<script>)", "[x]( javascript:alert)",
    ],
)  # fmt: skip
def test_what_anyone_types_becomes_no_code(tmp_path, caption):
    lines = (
        f"| model | {caption} |\n| --- | --- |\n| {caption} | 1 |\n| - | {caption} |\n\n- {caption}\n\n# {caption}\n"
    )
    (tmp_path / "one.md").write_text(f"**{caption}**\n\n{lines}")
    (tmp_path / "none.md").write_text(f"**Plain**\n\n{lines.replace(caption, 'plain')}")
    page = Page(report(tmp_path))
    ours = {"b": 0, "img": 0, "script": 1, "title": 1}
    assert {name: len(page.all(name)) for name in ours} == ours
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert all(each["href"].startswith(("#", "https://e.org/")) for each in page.all("a"))


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ('<b> & "it\'s"', '<b> & "it\'s"'),
        ("[x](javascript:alert)", "x"),
        ("[x]( javascript:alert)", "[x]( javascript:alert)"),
        ("[a [b](https://e.org/)", "[a b"),
        (r"**a\**", "**a**"),
        ("[a](b c)", "[a](b c)"),
        ("![a](b", "![a](b"),
    ],
)
def test_what_is_no_markup_is_text(caption, text):
    assert html.unescape(re.sub("<[^>]*>", "", inline(caption))) == text


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("a\nb", "<p>a b</p>"),
        ("## A *b*", "<h3>A *b*</h3>"),
        ("- one\n  more\n- two", "<ul>\n<li>one more</li>\n<li>two</li>\n</ul>"),
        ("![x](y.png)", ""),
        (r"\`a\` `b\`", r"<p>`a` <code>b\</code></p>"),
        ("**a `b`**", "<p><strong>a <code>b</code></strong></p>"),
        ("a | b", "<p>a | b</p>"),
    ],
)
def test_the_markdown_that_is_known(markdown, html):
    assert page_part(markdown) == html
