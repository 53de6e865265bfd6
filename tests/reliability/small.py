"""A whole run of the smallest network on a few pictures, in this process or as a program: a folder, pictures, words."""

import logging
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
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
PARTS = ("model", "data", "quantizer", "bits", "activation", "reconstruction", "qat", "trainer")
MOMENTS = (  # after each call of these it may be killed
    "os.fsync",  # of every file that is written, before it has its name
    "os.replace",  # as it has
    "attnround.reconstruction.loop.ReconstructionLoop.run_burst",
    "attnround.reconstruction.Checkpoint.save",
)


def pictures(root: Path) -> Path:
    """A folder of a few pictures, no two of which are near copies."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        shapes = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        shapes.resize((160, 120), Image.Resampling.BICUBIC).save(root / f"{number}.png")
    return root


def quantize(folder: Path, images: Path, more: Sequence[str] = (), resume: bool = False) -> None:
    """A run into this folder."""
    config, choices = compose([*WORDS, f"data.root={images}", *more])
    source = OmegaConf.to_container(config, resolve=False)
    OmegaConf.resolve(config)
    run = replace(Run.of(OmegaConf.to_container(config), source, choices, folder), resume=resume)
    folder.mkdir(exist_ok=True)
    parts = {part: instantiate(config[part], _convert_="all") for part in PARTS}
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


def moments(work: Callable[[], None], count: int, seed: int) -> list[tuple[str, int]]:
    """Random moments of a work, of each kind as many."""
    draw, totals = random.Random(seed), calls(work)
    return [(MOMENTS[i % len(MOMENTS)], draw.randint(1, totals[MOMENTS[i % len(MOMENTS)]])) for i in range(count)]


if __name__ == "__main__":
    quantize(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
