"""A finished table as data. Markdown, CSV, LaTeX and the report's HTML are all made from its entries."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from attnround.files import json_floats, json_text


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
    """All of a table for a program: a line of JSON about it, then one for each of its lines."""
    head = asdict(table)
    return "".join(f"{json_text(each)}\n" for each in (head, *head.pop("lines")))


def read_table(path: Path) -> Table:
    """A table from the file that `json_lines` made."""
    head, *lines = (json_floats(json.loads(each)) for each in path.read_text(encoding="utf-8").splitlines())
    return Table(**head, lines=[Line([Entry(*entry) for entry in entries], *rest) for entries, *rest in lines])
