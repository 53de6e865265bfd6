"""Tables and their pictures, written from rows: the same rows give the same bytes."""

import re
from collections.abc import Sequence
from pathlib import Path

from attnround.files import write_atomically
from attnround.study.pictures.draw import draw_pictures
from attnround.study.tables.grid import Cell, Grid
from attnround.study.tables.published import Published
from attnround.study.tables.render import render


def texts(
    grid: Grid, cells: Sequence[Cell], published: Sequence[Published] = (), arguments: str = ""
) -> dict[str, str]:
    """Suffix -> the table as such a file."""
    rendered = render(grid, cells, published, f"make tables TABLE={grid.name}{arguments}")
    return {"md": rendered.markdown(), "csv": rendered.csv(), "tex": rendered.latex()}


def write_tables(
    tables: Sequence[tuple[Grid, Sequence[Cell]]],
    folder: Path,
    published: Sequence[Published] = (),
    arguments: str = "",
) -> list[Path]:
    """Write <name>.md, .csv and .tex of each table and its pictures; their paths.

    published: what others published, put beside where a cell's labels match; arguments: of make, named in the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for grid, cells in tables:
        for suffix, text in texts(grid, cells, published, arguments).items():
            paths.append(folder / f"{grid.name}.{suffix}")
            write_atomically(paths[-1], text)
        paths += draw_pictures(grid, cells, folder)
    return paths


def put_into(text: str, folder: Path) -> str:
    """A Markdown text with each table that it marks in place, from the folder that the tables were written to.

    What stands between <!-- table NAME --> and <!-- end --> is NAME.md without its caption and notes.
    """

    def table(mark: re.Match) -> str:
        path = folder / f"{mark[1]}.md"
        if not path.exists():
            return mark[0]
        lines = [each for each in path.read_text().splitlines() if each.startswith("|")]
        return "\n".join([f"<!-- table {mark[1]} -->", *lines, "<!-- end -->"])

    return re.sub(r"<!-- table (\w+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)
