"""Prove that a run's integers compute what its simulation did, on the images that it was evaluated on.

python src/verify.py outputs/2026-01-01/12-00-00
python src/verify.py outputs/2026-01-01/12-00-00 data.limit=1000
"""

import hydra
from omegaconf import DictConfig

from attnround.cli.entry import CONF
from attnround.cli.recorded import perform_on_run, start_on_run


@hydra.main(version_base="1.3", config_path=CONF, config_name="verify")
def run(cfg: DictConfig) -> float:
    """Agreement of integers and simulation."""
    return perform_on_run(cfg)


def main() -> None:
    """The entry."""
    start_on_run(run)
