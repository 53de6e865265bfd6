"""A whole run of the smallest network on a few pictures, in this process or as a program: a folder, pictures, words."""

import logging
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from attnround.cli.rows import compose
from attnround.experiment import task_of
from attnround.experiment.record import Run

WORDS = (
    "model=timm", "model.name=test_resnet", "model.random_init=true", "model.num_classes=10", "logger=[]",
    "data=photos", "data.num_workers=0", "quantizer.num_steps=40", "bits=uniform", "bits.bit_width=3",
    "reconstruction.burst=10",
)  # fmt: skip
MOMENTS = (  # after each call of these it may be killed
    "os.fsync",  # of every file that is written, before it has its name
    "os.replace",  # as it has
    "attnround.reconstruction.loop.ReconstructionLoop.run_burst",
    "attnround.reconstruction.Checkpoint.save",
    "attnround.experiment.trials.Trials.write",
    "attnround.qat.module.QatModule.training_step",
    "pytorch_lightning.Trainer.save_checkpoint",
)


def pictures(root: Path) -> Path:
    """A folder of a few pictures of two classes, no two of which are near copies."""
    rng = np.random.default_rng(0)
    for number, (part, name) in enumerate(product(("train", "train", "train", "val"), "0077")):
        folder = root / part / name
        folder.mkdir(parents=True, exist_ok=True)
        shapes = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        shapes.resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return root


def quantize(folder: Path, images: Path, more: Sequence[str] = (), resume: bool = False) -> None:
    """A run into this folder. more: words, which come in place of those of their group."""
    groups = tuple(each.partition("=")[0] + "." for each in more)
    words = [each for each in WORDS if not each.replace("=", ".").startswith(groups)]
    config, choices = compose([*words, f"data.root={images}", *more])
    source = OmegaConf.to_container(config, resolve=False)
    OmegaConf.resolve(config)
    run = replace(Run.of(OmegaConf.to_container(config), source, choices, folder), resume=resume)
    folder.mkdir(exist_ok=True)
    parts = {
        name: instantiate(part, _convert_="all")
        for name, part in config.items()
        if OmegaConf.is_dict(part) and "_target_" in part
    }
    logging.getLogger("attnround").setLevel(logging.ERROR)
    task_of("quantize")(**parts, logger={}, seed=0, run=run)


def calls(work: Callable[[], None]) -> Counter[str]:
    """How often each function of `MOMENTS` is called in a work."""
    found: Counter[str] = Counter()

    def counting(place: str, function: Callable) -> Callable:
        def counted(*args: object, **more: object) -> object:
            found[place] += 1
            return function(*args, **more)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for place in MOMENTS:
            owner, name = place.rsplit(".", 1)
            patch.setattr(resolve_name(owner), name, counting(place, getattr(resolve_name(owner), name)))
        work()
    return found


def moments(work: Callable[[], None], seed: int) -> list[tuple[str, int]]:
    """A random moment of a work, of each kind that it has."""
    draw, totals = random.Random(seed), calls(work)
    return [(place, draw.randint(1, totals[place])) for place in MOMENTS if totals[place]]


if __name__ == "__main__":
    quantize(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
