"""What was tried here, as a table: `make reliability` prints it, and keeps it as a CSV and on its page.

What was not tried this time keeps its row, with its date.
"""

import csv
import datetime
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from attnround.files import write_atomically
from attnround.table import csv_text, text_table
from tests.conftest import ROOT
from tests.reliability.page import PAGES, TABLE, shown

HEADER = ("what", "tries", "passed", "failed", "worst")
tried: dict[str, list[str]] = {}  # what -> faults, "" of a try that passed


@pytest.fixture
def tally() -> Callable[[str, Iterable[str | None]], None]:
    """Enter tries, each a fault or None, and fail where there is a fault."""

    def enter(what: str, faults: Iterable[str | None]) -> None:
        found = [each or "" for each in faults]
        tried.setdefault(what, []).extend(found)
        assert not any(found), Counter(found).most_common(20)

    return enter


def rows() -> list[dict[str, object]]:
    """A row for each kind of try."""
    found = []
    for what, faults in tried.items():
        worst = Counter(filter(None, faults)).most_common(1)
        failed = sum(map(bool, faults))
        cells = (what, len(faults), len(faults) - failed, failed, worst[0][0] if worst else "none")
        found.append(dict(zip(HEADER, cells, strict=True)))
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", action="store_true", help="keep the table as results/reliability.csv")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not tried or "slow" not in config.option.markexpr.split():
        return
    terminalreporter.write_line("\n" + text_table(HEADER, [list(row.values()) for row in rows()]))
    if config.getoption("--reliability", default=False):
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        with TABLE.open() as file:
            kept = {row["what"]: row for row in csv.DictReader(file)}
        kept |= {row["what"]: row | {"date": date} for row in rows()}
        write_atomically(TABLE, csv_text(list(kept.values())))
        for page in PAGES:
            write_atomically(page, shown(page.read_text()))
        terminalreporter.write_line(f"{', '.join(str(each.relative_to(ROOT)) for each in (TABLE, *PAGES))}: {date}")
