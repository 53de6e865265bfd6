"""Evaluate an exported model on any data.

python src/evaluate.py checkpoint=<run folder>/quantized.safetensors data=fashion_mnist
python src/evaluate.py checkpoint=<file> data=image_folder data.root=<folder>
"""

import hydra
from omegaconf import DictConfig

from attnround.cli.entry import CONF, perform, start


@hydra.main(version_base="1.3", config_path=CONF, config_name="evaluate")
def run(cfg: DictConfig) -> float:
    """Top-1 of a file."""
    return perform(cfg)


def main() -> None:
    """The entry."""
    start(run)
