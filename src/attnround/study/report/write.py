"""One page with every table and picture, which needs no file beside it and no network.

python -m attnround.study.report.write results/tables results/report.html
"""

import base64
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from jinja2 import Environment, StrictUndefined

from attnround.errors import InputError, listed
from attnround.files import write_atomically
from attnround.study.tables.formats import csv, latex
from attnround.study.tables.table import Table, read_table

FIRST = "headline"  # the table that opens the page, if there is one of that name
PAGE = Path(__file__).with_name("page.html")


def report(folder: Path) -> str:
    """The page of a folder of tables; the same files give the same page. Raises InputError where there is no table."""
    paths = sorted(folder.glob("*.jsonl"), key=lambda path: (path.stem != FIRST, path.stem))
    if not paths:
        raise InputError(f"{folder} holds no table (*.jsonl): run make tables first, or give the folder it wrote to")
    tables = [read_table(path) for path in paths]
    pictures = {name: picture(folder / f"{name}.svg") for each in tables for name in each.pictures}
    files = {
        each.name: {
            f"{each.name}.csv": data(csv(each), "text/csv"),
            f"{each.name}.tex": data(latex(each), "text/x-tex"),
        }
        for each in tables
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(PAGE.read_text(encoding="utf-8"))
    return page.render(tables=tables, facts=facts(tables), pictures=pictures, files=files)


def picture(path: Path) -> str:
    """A picture as an address. Raises InputError where it is not there, or not whole."""
    try:
        text = path.read_text(encoding="utf-8")
        ElementTree.fromstring(text)
    except OSError as error:
        raise InputError(f"{path} is missing: make tables writes it anew") from error
    except (UnicodeDecodeError, ElementTree.ParseError) as error:
        raise InputError(f"{path} is damaged: make tables writes it anew") from error
    return data(text, "image/svg+xml")


def data(text: str, kind: str) -> str:
    """A file as an address that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def facts(tables: Sequence[Table]) -> list[str]:
    """How much there is, and where it comes from."""
    abouts = [line.about for table in tables for line in table.lines]
    runs, revisions, devices = (
        sorted({value for about in abouts for value in about.get(key, "").split(separator) if value})
        for key, separator in (("config_hashes", " "), ("git_revision", " "), ("device", "; "))
    )
    counts = {"table": len(tables), "picture": sum(len(each.pictures) for each in tables), "run": len(runs)}
    found = [f"{count} {word}{'s' * (count != 1)}" for word, count in counts.items()]
    return [*found, *([f"revision{'s' * (len(revisions) > 1)} {listed(revisions)}"] if revisions else []), *devices]


def main(source: str = "results/tables", target: str = "results/report.html", *more: str) -> None:
    """Write the page of the tables in a folder. Raises InputError where it cannot be written."""
    if more:
        raise InputError(f"{' '.join(more)}: give the folder of the tables, the page, and nothing else")
    page = report(Path(source))
    try:
        write_atomically(Path(target), page)
    except OSError as error:
        why = f"it cannot be written ({error.strerror})"
        raise InputError(f"{target}: {why}: give a file in a folder that is there") from error


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except InputError as error:
        sys.exit(str(error))
