"""What a newcomer reads: the README, the pages of docs/ and their like, and what tests take out of them."""

import re
import shlex
from pathlib import Path

from tests.conftest import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXTS = {path: path.read_text() for path in PAGES}
ENTRIES = "train|evaluate|verify|export|tables|sweep"
# a line of its own, perhaps with variables of the environment before it, or between backquotes
COMMAND = re.compile(
    rf"(?:^ *(?:[A-Z_]+=\w+ )*|`)(?:python src/({ENTRIES})\.py|attnround ({ENTRIES}))(?= |`|$)([^`#\n]*)", re.M
)


def name_of(path: Path) -> str:
    """A page as a test's name has it."""
    return str(path.relative_to(ROOT))


def commands(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """The entry and the arguments of every line that calls one with some; one that ends in a backslash goes on."""
    found = COMMAND.finditer(text.replace("\\\n", " "))
    return sorted({(match[1] or match[2], tuple(shlex.split(match[3]))) for match in found if match[3].strip()})


def blocks(text: str) -> list[str]:
    """The fenced blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)


def prose(text: str) -> str:
    """A page without its code, which may hold what looks like a link or a title."""
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", re.sub(r"^    .*$", "", text, flags=re.M), flags=re.M | re.S)


def links(text: str) -> list[str]:
    """Where a page's links and pictures lead."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def anchors(text: str) -> set[str]:
    """Of a page's titles, as the site and viewers of repositories make them."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}
