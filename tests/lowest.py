"""The lowest versions that pyproject.toml allows, as constraints for pip: python tests/lowest.py > constraints.txt"""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest(project: dict) -> list[str]:
    """A line `name==version` for every requirement of the project and its extras; its own name asks for an extra."""
    requirements = [
        *project["dependencies"],
        *(each for some in project["optional-dependencies"].values() for each in some),
    ]
    others = [each for each in requirements if not each.startswith(f"{project['name']}[")]
    return ["{}=={}".format(*re.match(r"([\w.-]+)>=([\d.]+)", each).groups()) for each in others]


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads(PROJECT.read_text())["project"])))
