"""A finished table in its three forms: Markdown to read, CSV for programs, LaTeX for papers."""

from dataclasses import dataclass
from typing import NamedTuple

from attnround.study.tables import latex
from attnround.table import csv_text, markdown_table


class Text(NamedTuple):
    """What stands in a place of the table."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Rendered:
    """A table, ready to be written.

    header: the titles, the first num_labels of them of what names a line; lines: the texts below them;
    records: a dict a line, for CSV; notes: the sentences below; command: what makes the table.
    """

    name: str
    caption: str
    command: str
    header: tuple[str, ...]
    num_labels: int
    lines: tuple[tuple[Text, ...], ...]
    records: tuple[dict[str, object], ...]
    notes: tuple[str, ...]

    def markdown(self) -> str:
        """Caption, table, and what to know of it."""
        below = "".join(f"- {escape(note)}\n" for note in self.notes)
        return f"**{escape(self.caption)}**\n\n{self.markdown_lines()}\n\n- `{self.command}` makes this table.\n{below}"

    def markdown_lines(self) -> str:
        """The table alone."""
        lines = [[f"**{escape(text)}**" if bold else escape(text) for text, bold in line] for line in self.lines]
        return markdown_table([escape(title) for title in self.header], lines)

    def csv(self) -> str:
        """A line a cell: mean, std, low and high as numbers of their own, and where they come from."""
        return csv_text(self.records)

    def latex(self) -> str:
        """A table environment; the document needs the package booktabs."""
        lines = [[latex.text(text, bold) for text, bold in line] for line in self.lines]
        notes = [f"\\texttt{{{latex.text(self.command)}}} makes this table.", *map(latex.text, self.notes)]
        header = [latex.text(title) for title in self.header]
        return latex.table(self.name, latex.text(self.caption), header, self.num_labels, lines, notes)


def escape(text: str) -> str:
    r"""Text for a Markdown table.

    >>> print(escape("a|b *c*"))
    a\|b \*c\*
    """
    for each in "\\|*<`":
        text = text.replace(each, f"\\{each}")
    return text.replace("\n", " ")
