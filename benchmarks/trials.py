"""What the grids of settings share: the options of their command lines, and a CSV that every trial adds its row to."""

import argparse
import csv
import itertools
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf

from attnround.data import Photos
from attnround.zoo import TimmModel

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("resnet18_slim", "mobilenetv2_050")
PINNED = {"first": 8, "last": 8}


def product(**axes: list) -> list[dict]:
    """Every combination of the values of these options."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def named(options: dict) -> str:
    """`lr=0.05 num_steps=200`, in the order of the names."""
    return " ".join(f"{name}={value}" for name, value in sorted(options.items()))


def parser(description: str, rows: str, seeds: Sequence[int] = (0, 1, 2)) -> argparse.ArgumentParser:
    """With --models, --seeds and --rows, a file below results."""
    arguments = argparse.ArgumentParser(description=description.splitlines()[0])
    arguments.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    arguments.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    arguments.add_argument("--rows", type=Path, default=ROOT / "results" / rows)
    return arguments


def settle() -> None:
    """As many threads as the environment says, and no lines of stages."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    logging.disable(logging.INFO)


def model_of(name: str) -> TimmModel:
    """One of the embedded models, or lite0."""
    config = OmegaConf.load(ROOT / f"conf/model/{name}.yaml")
    if name in MODELS:
        config.checkpoint = str(ROOT / f"assets/checkpoints/{name}.safetensors")
    del config["_target_"]
    return TimmModel(**OmegaConf.to_container(config))


def photographs() -> Photos:
    """Those of assets/photos: some to calibrate on, others to be judged on."""
    parts = {"root": ROOT / "assets/photos/calibration", "evaluation": ROOT / "assets/photos/evaluation"}
    return Photos(**{part: str(path) for part, path in parts.items()})


class Rows:
    """The rows of a file, told apart by what they have under `keys`; a trial whose row is there is not run again."""

    def __init__(self, path: Path, keys: Sequence[str]):
        self.path, self.keys, self.there = path, keys, set()
        if path.exists():
            with path.open() as file:
                self.there = {self._key(row) for row in csv.DictReader(file)}

    def __contains__(self, place: dict) -> bool:
        return self._key(place) in self.there

    def add(self, row: dict) -> None:
        """Write one more, under a header if it is the first, and print it."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.there.add(self._key(row))
        print(*row.values(), flush=True)

    def _key(self, row: dict) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in self.keys)
