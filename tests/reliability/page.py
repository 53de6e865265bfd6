"""results/reliability.csv where it is shown: the table of docs/reliability.md, the sums in the README."""

import csv
import re

from attnround.table import markdown_table
from tests.conftest import ROOT

TABLE = ROOT / "results/reliability.csv"
PAGES = (ROOT / "docs/reliability.md", ROOT / "README.md")


def shown(text: str) -> str:
    """A page with the table, its date and the sums in their places, where it has these."""
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    date = max({row.pop("date") for row in rows})
    tries, failed = (sum(int(row[name]) for row in rows) for name in ("tries", "failed"))
    table = markdown_table(list(rows[0]), [list(row.values()) for row in rows])
    text = re.sub(r"last run on [\w-]+:", f"last run on {date}:", text)
    text = re.sub(r"[\d,]+ tries, [\d,]+ failed \([\d-]+\)", f"{tries:,} tries, {failed:,} failed ({date})", text)
    return re.sub(
        r"<!-- reliability -->.*?<!-- end -->", f"<!-- reliability -->\n{table}\n<!-- end -->", text, flags=re.S
    )
