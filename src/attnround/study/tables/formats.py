"""The forms of a table: Markdown to read, CSV and JSON for programs, LaTeX for papers."""

import re

from attnround.study.tables.table import Entry, Table, json_lines
from attnround.table import csv_text, markdown_table

LATEX = {
    **{each: f"\\{each}" for each in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "[": "{[}",  # after the end of a line it would open an option
    "]": "{]}",
    "*": "{*}",  # the same
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "`": "\\textasciigrave{}",
    "±": "$\\pm$",
    "\N{MULTIPLICATION SIGN}": "$\\times$",
    "\N{GREEK SMALL LETTER SIGMA}": "$\\sigma$",
    "\N{GREEK SMALL LETTER ALPHA}": "$\\alpha$",
    "†": "$\\dagger$",
    "‡": "$\\ddagger$",
    "¹": "$^1$",
    "²": "$^2$",
    "…": "\\ldots{}",
    "\n": " ",
}
MINUS, DASHES = r"(?<![\w-])-(?=\d)", "-(?=-)"  # two hyphens would become a dash
SPECIAL = re.compile(f"(?P<minus>{MINUS})|(?P<dash>{DASHES})|{'|'.join(map(re.escape, LATEX))}")


def markdown(table: Table) -> str:
    """Caption, table, and what to know of it."""
    below = "".join(f"- {in_markdown(note)}\n" for note in table.notes)
    caption = in_markdown(table.caption)
    return f"**{caption}**\n\n{markdown_lines(table)}\n\n- `{table.command}` makes this table.\n{below}"


def markdown_lines(table: Table) -> str:
    """The table alone."""

    def shown(entry: Entry) -> str:
        text = in_markdown(entry.shown)
        return f"**{text}**" if entry.bold else text

    return markdown_table(
        list(map(in_markdown, table.header)), [list(map(shown, each.entries)) for each in table.lines]
    )


def csv(table: Table) -> str:
    """A line a line: mean, std, low and high as numbers of their own, to six digits, and where they come from."""
    records = []
    for line in table.lines:
        fields = {key: value for entry in line.entries for key, value in entry.fields.items()} | line.about
        records.append({key: f"{each:.6g}" if isinstance(each, float) else each for key, each in fields.items()})
    return csv_text([dict.fromkeys(records[0], "") | record for record in records])


def latex(table: Table) -> str:
    """A table environment; the document needs the package booktabs."""

    def shown(entry: Entry) -> str:
        text = in_latex(entry.shown)
        return f"\\textbf{{{text}}}" if entry.bold else text

    columns = "l" * table.num_labels + "r" * (len(table.header) - table.num_labels)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{in_latex(table.caption)}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(in_latex, table.header)) + r" \\",
            r"\midrule",
            *(" & ".join(map(shown, line.entries)) + r" \\" for line in table.lines),
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\smallskip\footnotesize\raggedright",
            f"\\texttt{{{in_latex(table.command)}}} makes this table.\n",
            *(f"{in_latex(note)}\n" for note in table.notes),
            r"\end{table}",
            "",
        ]
    )


def in_markdown(text: str) -> str:
    r"""Plain text so that Markdown shows it as it is.

    >>> print(in_markdown("a|b *c*"))
    a\|b \*c\*
    """
    return re.sub(r"[\\|*<`]", r"\\\g<0>", text).replace("\n", " ")


def in_latex(text: str) -> str:
    r"""Plain text so that LaTeX prints it as it is, minus signs as such.

    >>> print(in_latex("W4_A8 & 5 %, -0.10 ± 0.02, profile--quick"))
    W4\_A8 \& 5 \%, $-$0.10 $\pm$ 0.02, profile-{}-quick
    """
    groups = {"minus": "$-$", "dash": "-{}"}
    return SPECIAL.sub(lambda found: groups[found.lastgroup] if found.lastgroup else LATEX[found[0]], text)


FORMATS = {"md": markdown, "csv": csv, "tex": latex, "jsonl": json_lines}  # ending of a file -> what it holds
