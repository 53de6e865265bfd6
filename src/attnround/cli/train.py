"""Quantize an image classifier after training, and see how it compares with FP32 and rounding to nearest.

    python src/train.py quantizer=attention_round bits=mixed                     the main job
    python src/train.py bits=uniform bits.bit_width=3                            3 bits in every layer but the ends
    python src/train.py -m quantizer=nearest,adaround,attention_round seed=0,1,2 side by side
    python src/train.py model=timm model.name=resnet18 model.checkpoint=resnet18.pth \\
      data=image_folder data.root=imagenet data.calibration=photos               your own model and data
    python src/train.py experiment=pretrain model=mobilenetv2_050                the float recipe
    python src/tables.py --help                                                  tables: many runs, with intervals

hydra.run.dir=<folder> says where the results go; logger=[csv,wandb] logs to both; trainer=gpu runs on a GPU.
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from attnround.cli.entry import CONF, perform, start
from attnround.cli.parsed import at_home
from attnround.cli.summary import summarised


@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
def run(cfg: DictConfig) -> float:
    """Quantize or train a model."""
    return perform(cfg)


def main() -> None:
    """The entry."""
    words = map(at_home, sys.argv[1:])
    for folder in (each.removeprefix("resume=").strip("'") for each in words if each.startswith("resume=")):
        if folder not in ("", "null") and not Path(folder).is_dir():  # Hydra would make it
            sys.exit(f"error: resume={folder} is not there: give the folder of the run that is to go on")
    with summarised():
        start(run)
