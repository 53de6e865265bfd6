"""HTML from the Markdown that tables are written in: paragraphs, headings, lists, tables, bold, code and links."""

import re
from html import escape

# Any text takes linear time: each scan is possessive and ends where the next of its kind may begin.
INLINE = re.compile(
    r"\\(?P<literal>.)|`(?P<code>[^`]++)`|\*\*(?P<bold>(?:[^*\\]|\\.)++)\*\*"
    r"|!\[(?:[^][\\]|\\.)*+\]\([^)[]*+\)|\[(?P<text>(?:[^][\\]|\\.)++)\]\((?P<target>[^)[\s]++)\)"
)
BLANK = re.compile(r"\n(?:[^\S\n]*+\n)++")
HEADING = re.compile(r"#++ ++")
SPREAD = re.compile(r" (± [\d.]++)")
NUMBER = re.compile(  # with a spread, an interval, a mark
    r"[+-]?(?:\d[\d.,]*+|inf|nan)(?: ± [\d.]++)?(?: \[[^]]*+\])?(?: \S)?|-"
)


def page_part(markdown: str) -> str:
    """Markdown as HTML, everything in it escaped. An image is left out: whoever has the file can put it there."""
    return "\n".join(_block(chunk.splitlines()) for chunk in BLANK.split(markdown.strip()) if chunk.strip())


def inline(markdown: str) -> str:
    """A line of Markdown as HTML. Only links to the web are kept: a page that is sent to someone has no neighbours.

    >>> inline("**a\\\\*b** of `x<y` in [c & d](https://e.org/)")
    '<strong>a*b</strong> of <code>x&lt;y</code> in <a href="https://e.org/">c &amp; d</a>'
    """
    parts, end = [], 0
    for found in INLINE.finditer(markdown):
        parts += [escape(markdown[end : found.start()]), _span(found)]
        end = found.end()
    return "".join(parts) + escape(markdown[end:])


def _span(found: re.Match) -> str:
    if found["literal"]:
        return escape(found["literal"])
    if found["code"]:
        return f"<code>{escape(found['code'])}</code>"
    if found["bold"]:
        return f"<strong>{inline(found['bold'])}</strong>"
    if found["text"]:
        text = inline(found["text"])
        web = found["target"].startswith(("https://", "http://"))
        return f'<a href="{escape(found["target"])}">{text}</a>' if web else text
    return ""


def _block(lines: list[str]) -> str:
    """Headings, a line each, and what stands below them."""
    html, start = [], 0
    while start < len(lines) and not _is_table(lines, start) and (heading := HEADING.match(lines[start])):
        html.append(f"<h3>{inline(lines[start][heading.end() :])}</h3>")
        start += 1
    return "".join(html) + (_body(lines[start:]) if start < len(lines) else "")


def _is_table(lines: list[str], start: int) -> bool:
    """Whether the second line is one of dashes."""
    return start + 1 < len(lines) and "-" in lines[start + 1] and not lines[start + 1].strip(" :|-")


def _body(lines: list[str]) -> str:
    if _is_table(lines, 0):
        return _table([_cells(line) for line in lines[:1] + lines[2:]])
    if lines[0].startswith("- "):
        items = re.split(r"\n- ", "\n".join(lines)[2:])
        return "<ul>\n" + "".join(f"<li>{inline(' '.join(item.split()))}</li>\n" for item in items) + "</ul>"
    text = inline(" ".join(lines))
    return f"<p>{text}</p>" if text else ""


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))]


def _table(lines: list[list[str]]) -> str:
    """A table in a frame that scrolls; numbers flush right; a rule where the first column's label changes."""
    header, *body = lines
    numbers = {place for line in body for place, cell in enumerate(line) if _is_number(cell)}
    numeric = [place in numbers for place in range(len(header))]
    flush = [None, *numeric[1:]]
    html = ['<div class="table" tabindex="0" role="region" aria-label="table">', "<table>", "<thead><tr>"]
    for title, right in zip(header, numeric, strict=True):
        html.append(f'<th scope="col"{_class("number" if right else "")}>{inline(title)}</th>')
    html += ["</tr></thead>", "<tbody>"]
    last = None
    for line in body:
        told = " ".join(line)
        kinds = ["first"] if line[0] != last else []
        kinds += ["published"] if "(published " in told else []
        kinds += ["failed"] if "failed: " in told else []
        html.append(f"<tr{_class(' '.join(kinds))}>" + "".join(map(_cell, line, flush)) + "</tr>")
        last = line[0]
    return "\n".join([*html, "</tbody>", "</table>", "</div>"])


def _cell(text: str, right: bool | None) -> str:
    """A cell; right is None for the one that names its line."""
    if right is None:
        return f'<th scope="row">{inline(text)}</th>'
    shown = SPREAD.sub(r' <span class="spread">\1</span>', inline(text))
    return f"<td{_class('number' if right else '')}>{shown}</td>"


def _is_number(cell: str) -> bool:
    return bool(NUMBER.fullmatch(cell.strip("*")))


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
