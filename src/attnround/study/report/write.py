"""One page with every table and picture, which needs no file beside it and no network.

python -m attnround.study.report.write results/tables results/report.html
"""

import base64
import csv
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from xml.etree import ElementTree

from attnround.errors import InputError, listed
from attnround.files import write_atomically
from attnround.study.report.markup import inline, page_part
from attnround.study.report.page import page

FIRST = "headline"  # the table that opens the page, if there is one of that name


@dataclass(frozen=True)
class Table:
    """A table as it lies in the folder: <name>.md, <name>_<picture>.svg and, for where it comes from, <name>.csv."""

    name: str
    caption: str
    below: str  # Markdown: the table and its notes
    pictures: tuple[Path, ...]


def report(folder: Path) -> str:
    """The page of a folder of tables; the same files give the same page. Raises InputError where there is no table."""
    tables = read_tables(folder)
    contents = "\n".join(f'<li><a href="#{escape(each.name)}">{inline(each.caption)}</a></li>' for each in tables)
    return page(_facts(folder, tables), contents, "\n".join(map(_section, tables)))


def read_tables(folder: Path) -> list[Table]:
    """The tables of a folder, `headline` first, then by name."""
    paths = sorted(folder.glob("*.md"), key=lambda path: (path.stem != FIRST, path.stem))
    if not paths:
        raise InputError(f"{folder} holds no table (*.md): run make tables first, or give the folder it wrote to")
    names = [path.stem for path in paths]
    return [_read(path, names) for path in paths]


def _read(path: Path, names: list[str]) -> Table:
    first, _, below = path.read_text(encoding="utf-8").strip().partition("\n\n")
    if first.startswith("|"):
        first, below = path.stem, f"{first}\n\n{below}"
    # ptq_qat_time.svg is a picture of ptq_qat where there is such a table, and not of ptq.
    longer = tuple(f"{name}_" for name in names if name.startswith(f"{path.stem}_"))
    pictures = [each for each in sorted(path.parent.glob(f"{path.stem}_*.svg")) if not each.stem.startswith(longer)]
    return Table(path.stem, first.lstrip("# ").removeprefix("**").removesuffix("**"), below, tuple(pictures))


def _section(table: Table) -> str:
    pictures = "\n".join(map(_figure, table.pictures))
    name = escape(table.name)
    return (
        f'<section id="{name}">\n<p class="name"><a href="#{name}">{name}</a></p>\n<h2>{inline(table.caption)}</h2>\n'
        f"{pictures}\n{page_part(table.below)}\n</section>"
    )


def _figure(path: Path) -> str:
    """A picture in the page, with its size (so that nothing moves while it loads) and its title."""
    svg = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(svg)
    width, height = (round(float(root.get(side).removesuffix("pt")) * 96 / 72) for side in ("width", "height"))
    title = root.findtext(".//{http://purl.org/dc/elements/1.1/}title", path.stem)
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    return f'<figure><img src="{source}" width="{width}" height="{height}" alt="{escape(title)}"></figure>'


def _facts(folder: Path, tables: list[Table]) -> str:
    """How much there is, and where it comes from as far as the CSV files beside the tables say."""
    lines = []
    for each in tables:
        if (path := folder / f"{each.name}.csv").exists():
            lines += csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    runs, revisions, devices = (
        sorted({value for line in lines for value in (line.get(key) or "").split(separator) if value})
        for key, separator in (("config_hashes", " "), ("git_revision", " "), ("device", "; "))
    )
    facts = [_count(len(tables), "table"), _count(sum(len(each.pictures) for each in tables), "picture")]
    if runs:
        facts.append(_count(len(runs), "run"))
    if revisions:
        facts.append(f"revision{'s' * (len(revisions) > 1)} {listed(revisions)}")
    return "\n".join(f"<li>{escape(fact)}</li>" for fact in [*facts, *devices])


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def main(source: str = "results/tables", target: str = "results/report.html") -> None:
    """Write the page of the tables in a folder."""
    write_atomically(Path(target), report(Path(source)))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except InputError as error:
        sys.exit(str(error))
