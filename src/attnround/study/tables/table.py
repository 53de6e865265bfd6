"""A finished table as data. Markdown, CSV, LaTeX and the report's HTML are all made from its entries."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from attnround.errors import InputError
from attnround.files import json_floats, json_text
from attnround.typed import check, parsed

HEAD = {
    "name": str, "caption": str, "command": str, "header": [str], "num_labels": int, "notes": [str],
    "pictures": {str: str}, "num_lines": int,
}  # fmt: skip
LINE = {
    "entries": [{"text": str, "spread": str, "mark": str, "bold": bool, "fields": {}}], "about": {}, "kind": str,
}  # fmt: skip


class Entry(NamedTuple):
    """What stands in a place of a table.

    text: a label, or the number as it is shown; spread: its deviation or interval, likewise; mark: signs of footnotes;
    bold: whether it is significantly the best of its group; fields: name in CSV -> the label or number itself.
    """

    text: str
    spread: str = ""
    mark: str = ""
    bold: bool = False
    fields: dict[str, str | float | None] = {}  # noqa: RUF012 (nobody writes into it)

    @property
    def shown(self) -> str:
        """All of it, as a person reads it."""
        return " ".join(filter(None, (self.text, self.spread, self.mark)))

    @property
    def value(self) -> float | None:
        """What a column is ordered by: the number, without its spread; None of words."""
        return next((each for each in self.fields.values() if isinstance(each, int | float)), None)


class Line(NamedTuple):
    """A line of a table. about: where it comes from, for CSV; kind: "", "failed" or "published"."""

    entries: list[Entry]
    about: dict[str, str | float | None]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table, ready to be written.

    header: the titles, the first num_labels of them of what names a line; notes: the sentences below; command: what
    makes the table; pictures: file beside the table, without its ending -> what it shows.
    """

    name: str
    caption: str
    command: str
    header: list[str]
    num_labels: int
    notes: list[str]
    pictures: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)


def json_lines(table: Table) -> str:
    """All of a table for a program: a line of JSON about it, how many lines it has too, then one for each of these."""
    head = asdict(table)
    lines = head.pop("lines")
    return "".join(f"{json_text(each)}\n" for each in (head | {"num_lines": len(lines)}, *lines))


def read_table(path: Path) -> Table:
    """A table from the file that `json_lines` made. Raises InputError where it is not as it was written."""
    try:
        return _table(*map(parsed, path.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, TypeError) as error:
        way = f"make tables TABLE={path.stem} writes it anew"
        raise InputError(f"{path} is no table that can be read: {way}") from error


def _table(head: dict, *lines: list) -> Table:
    """Raises ValueError or TypeError where these are not what `json_lines` writes."""
    check(head, HEAD)
    num_lines = head.pop("num_lines")
    if not lines or len(lines) != num_lines:
        raise ValueError("it has not all lines")
    return Table(**head, lines=[_line(*each) for each in lines])


def _line(entries: list, about: dict, kind: str) -> Line:
    line = Line([Entry(*texts, json_floats(fields)) for *texts, fields in entries], json_floats(about), kind)
    check(line._asdict() | {"entries": [each._asdict() for each in line.entries]}, LINE)
    return line
