"""Prove that a run's integers compute what its simulation did, on the images that it was evaluated on.

python src/verify.py outputs/2026-01-01/12-00-00
python src/verify.py outputs/2026-01-01/12-00-00 data.limit=1000
"""

import json
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from entry import CONF, ROOT, perform, start


@hydra.main(version_base="1.3", config_path=CONF, config_name="verify")
def main(cfg: DictConfig) -> float:
    """Agreement of integers and simulation."""
    return perform(cfg)


def recorded(folder: str, given: list[str]) -> list[str]:
    """The overrides that make a run's data again, as its record says, unless `given` has others."""
    path = Path(folder) / "record.json"
    try:
        record = json.loads(path.read_text())
        config, choice = record["config"], record["choices"]["data"]
        data, root = config["data"], config["paths"]["root"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        sys.exit(f"error: {path} cannot be read ({type(error).__name__}): give the folder of a finished run")
    overrides = [f"folder={_quoted(folder)}"]
    if any(each.startswith("data=") for each in given):
        return overrides
    for key, value in data.items():
        if isinstance(value, str) and (value == root or value.startswith(f"{root}/")):  # the project may have moved
            value = str(ROOT) + value[len(root) :]
        if key != "_target_":
            overrides.append(f"++data.{key}={_quoted(value)}")
    return [*overrides, f"data={choice}"]


def _quoted(value: object) -> str:
    """As Hydra's grammar takes it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    folders = [each for each in sys.argv[1:] if "=" not in each and not each.startswith("-")]
    options = [each for each in sys.argv[1:] if each not in folders]
    if len(folders) > 1:
        sys.exit(f"error: {' '.join(folders)}: give the folder of one run")
    if folders:
        sys.argv[1:] = recorded(folders[0], options) + options
    start(main)
