"""Run one experiment: compose the config, run its task, return its metric.

python src/train.py quantizer=attention_round bits=mixed
python src/train.py -m quantizer=nearest,adaround,attention_round seed=0,1,2
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from attnround.cli.entry import CONF, perform, start
from attnround.cli.summary import summarised


@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
def run(cfg: DictConfig) -> float:
    """Quantize or train a model."""
    return perform(cfg)


def main() -> None:
    """The entry."""
    for folder in (each.removeprefix("resume=") for each in sys.argv[1:] if each.startswith("resume=")):
        if folder not in ("", "null") and not Path(folder).is_dir():  # Hydra would make it
            sys.exit(f"error: resume={folder} is not there: give the folder of the run that is to go on")
    with summarised():
        start(run)
