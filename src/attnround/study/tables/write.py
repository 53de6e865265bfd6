"""Tables and their pictures, written from rows: the same rows give the same bytes."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from attnround.files import write_atomically
from attnround.study.pictures.draw import draw_pictures, titles_of
from attnround.study.tables.fill import fill
from attnround.study.tables.formats import FORMATS, markdown_lines
from attnround.study.tables.grid import Cell, Grid
from attnround.study.tables.published import Published
from attnround.study.tables.table import read_table


def texts(
    grid: Grid, cells: Sequence[Cell], published: Sequence[Published] = (), command: str | None = None
) -> dict[str, str]:
    """Ending -> the table as such a file."""
    table = fill(grid, cells, published, command)
    table = replace(table, pictures=titles_of(grid, cells))
    return {ending: form(table) for ending, form in FORMATS.items()}


def write_tables(
    tables: Sequence[tuple[Grid, Sequence[Cell]]],
    folder: Path,
    published: Sequence[Published] = (),
    command: Callable[[str], str] | None = None,
) -> list[Path]:
    """Write each table in every form, and its pictures; the paths.

    published: what others published, put beside where a cell's labels match; command: what makes the
    table of a name, to be named in it; `make` where None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for grid, cells in tables:
        for ending, text in texts(grid, cells, published, command and command(grid.name)).items():
            paths.append(folder / f"{grid.name}.{ending}")
            write_atomically(paths[-1], text)
        paths += draw_pictures(grid, cells, folder)
    return paths


def put_into(text: str, folder: Path) -> str:
    """A Markdown text with each table that it marks in place, from the folder that the tables were written to.

    What stands between <!-- table NAME --> and <!-- end --> is the table NAME without its caption and notes.
    """

    def table(mark: re.Match) -> str:
        path = folder / f"{mark[1]}.jsonl"
        if not path.exists():
            return mark[0]
        return f"<!-- table {mark[1]} -->\n{markdown_lines(read_table(path))}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)
