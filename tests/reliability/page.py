"""The table of docs/reliability.md, from results/reliability.csv."""

import csv
import re

from attnround.table import markdown_table
from tests.conftest import ROOT

TABLE, PAGE = ROOT / "results/reliability.csv", ROOT / "docs/reliability.md"


def shown(text: str) -> str:
    """The page with the table, and its date, in place."""
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    dates = {row.pop("date") for row in rows}
    table = markdown_table(list(rows[0]), [list(row.values()) for row in rows])
    text = re.sub(r"last run on [\w-]+:", f"last run on {max(dates)}:", text)
    return re.sub(
        r"<!-- reliability -->.*?<!-- end -->", f"<!-- reliability -->\n{table}\n<!-- end -->", text, flags=re.S
    )
