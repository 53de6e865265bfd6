"""Write the model of a run as ONNX or as a torch.export program, compared with the simulation on the run's own images.

python src/export.py outputs/2026-01-01/12-00-00 format=onnx
python src/export.py outputs/2026-01-01/12-00-00 format=torch
"""

import hydra
from omegaconf import DictConfig

from attnround.cli.entry import CONF
from attnround.cli.recorded import perform_on_run, start_on_run


@hydra.main(version_base="1.3", config_path=CONF, config_name="export")
def run(cfg: DictConfig) -> float:
    """Agreement of the exported model with the simulation."""
    return perform_on_run(cfg)


def main() -> None:
    """The entry."""
    start_on_run(run)
