"""Which settings of a rounding method are best for the network's output: rows of a grid, over models, bits and seeds.

OMP_NUM_THREADS=1 python benchmarks/tuning.py attention_round               # the whole grid, into results/tuning.csv
OMP_NUM_THREADS=1 python benchmarks/tuning.py flexround --bits 2 --seeds 0 --models resnet18_slim

Judged on 2,048 training images outside the calibration set, without labels: SQNR of the logits in dB, and agreement
with FP32 in percent. Uniform bits, first and last layer at 8. A setting whose row is there is skipped, so a stopped
grid goes on. A run takes 10 s for a closed form, 15 s for Attention Round and 130 s for AdaRound, on one core.
"""

import argparse
import copy
import csv
import itertools
import logging
import os
import sys
import time
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from attnround.bits import Problem, Uniform  # noqa: E402 (after the path)
from attnround.data import FashionMNIST  # noqa: E402
from attnround.evaluation import agreement, logit_sqnr_db  # noqa: E402
from attnround.models import TimmModel, find_layers, fold_batch_norms, swap_layers  # noqa: E402
from attnround.quantization.observer import ClipSearch  # noqa: E402
from attnround.quantization.rounding import (  # noqa: E402
    GPTQ,
    AdaRound,
    AttentionRound,
    CoordinateDescent,
    FlexRound,
    Nearest,
    Quantizer,
    Stochastic,
)
from attnround.reconstruction import LayerReconstruction, reconstruct  # noqa: E402
from attnround.trainer import TrainerSettings  # noqa: E402

NUM_CALIBRATION, NUM_HELD_OUT = 1024, 2048
PINNED = {"first": 8, "last": 8}
MODELS = ("resnet18_slim", "mobilenetv2_050")
METHODS = {
    "nearest": Nearest, "stochastic": Stochastic, "adaround": AdaRound, "attention_round": AttentionRound,
    "flexround": FlexRound, "gptq": GPTQ, "coordinate_descent": CoordinateDescent,
}  # fmt: skip


def product(**axes: list) -> list[dict]:
    """Every combination of the values of these options."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


# Settings are options of the quantizer; refit_scale is the reconstruction's, input_weighted its observer's.
GRIDS = {
    "methods": [("attention_round", {}), ("gptq", {}), ("coordinate_descent", {"init": "gptq"}), ("flexround", {}),
                ("adaround", {}), ("nearest", {}), ("stochastic", {})],
    "finals": [("attention_round", each) for each in [
        {}, {"input_weighted": True}, {"input_weighted": True, "lr": 0.1},
        *product(input_weighted=[True], lr=[0.05, 0.1], sigma_end=[0.1]),
        {"input_weighted": True, "lr": 0.1, "polish": True},
    ]],
    "attention_round": [("attention_round", each) for each in [
        {},
        *product(input_weighted=[False, True], polish=[False, True], refit_scale=[False, True])[1:],
        *product(sigma=[0.35, 0.5, 0.7], sigma_end=[0.02, 0.05, 0.1, 0.2]),
        *product(lr=[0.02, 0.05, 0.1], num_steps=[100, 200, 400]),
        *product(estimator=["sampled"], lr=[0.005, 0.02, 0.05]),
        *product(estimator=["gated"], lr=[0.02, 0.05, 0.1], sigma_end=[0.5]),
    ]],
    "adaround": [("adaround", each) for each in [
        *product(lr=[0.003, 0.01, 0.03, 0.1], regularization=[1.0, 3.0, 10.0, 30.0]),
        *product(relative=[False], regularization=[0.01, 0.1], lr=[0.003, 0.01, 0.03]),
    ]],
    "closed_forms": [
        *[("gptq", each) for each in product(damping=[0.0, 0.01, 0.1], order=["natural", "activation"])],
        *[("coordinate_descent", each) for each in product(init=["nearest", "gptq"], refit_scale=[False, True])],
    ],
    "flexround": [("flexround", each) for each in [
        *product(lr=[2e-4, 5e-4, 1e-3, 2e-3, 5e-3], num_steps=[500, 2000]),
        *product(lr=[2e-4, 1e-3], num_steps=[5000], decay=[False, True]),
    ]],
}  # fmt: skip


class Case:
    """A float model, its calibration images of one seed, and the images it is judged on."""

    def __init__(self, name: str, seed: int):
        config = OmegaConf.load(ROOT / f"conf/model/{name}.yaml")
        config.checkpoint = str(ROOT / f"assets/checkpoints/{name}.safetensors")
        del config["_target_"]
        self.model = TimmModel(**OmegaConf.to_container(config))
        self.teacher = self.original()
        data = FashionMNIST(str(ROOT / "assets/fashion_mnist"), NUM_CALIBRATION + NUM_HELD_OUT, seed=seed)
        data.match(self.teacher.preprocessing, self.teacher.num_classes)
        images = data.calibration().images
        self.images, self.held_out = images[:NUM_CALIBRATION], images[NUM_CALIBRATION:]
        fold_batch_norms(self.teacher)
        self.seed = seed

    def original(self) -> nn.Module:
        """The float model as it was built, batch norms in place."""
        return self.model.build()

    def uniform(self, bit_width: int) -> dict[str, int]:
        """Bits of every layer: these, but for the first and the last."""
        layers = find_layers(self.teacher)
        return Uniform(bit_width=bit_width, pinned=PINNED).allocate(Problem(layers)).bit_width

    def run(
        self, quantizer: Quantizer, bit_widths: dict[str, int], refit_scale: bool, input_weighted: bool
    ) -> dict[str, str]:
        """Quantize a copy and judge it."""
        observer = ClipSearch(input_weighted=input_weighted)
        student = swap_layers(self.teacher, bit_widths, observer)
        settings = LayerReconstruction(observer=observer, refit_scale=refit_scale)
        teacher = copy.deepcopy(self.teacher)
        _, seconds = reconstruct(teacher, student, self.images, quantizer, settings, TrainerSettings(), seed=self.seed)
        with torch.no_grad():
            wanted, given = (
                torch.cat([model(batch) for batch in self.held_out.split(512)]) for model in (self.teacher, student)
            )
        return {
            "sqnr_db": f"{logit_sqnr_db(wanted, given):.3f}",
            "agreement": f"{agreement(wanted, given):.3f}",
            "seconds": f"{seconds:.1f}",
        }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("grid", choices=GRIDS)
    arguments.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    arguments.add_argument("--bits", nargs="+", type=int, default=[4, 3, 2])
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments.add_argument("--rows", type=Path, default=ROOT / "results/tuning.csv")
    given = arguments.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    logging.disable(logging.INFO)

    done = set()
    if given.rows.exists():
        with given.rows.open() as file:
            done = {key_of(row) for row in csv.DictReader(file)}
    for seed, model in itertools.product(given.seeds, given.models):
        case = None
        for bit_width, (method, options) in itertools.product(given.bits, GRIDS[given.grid]):
            place = {"model": model, "bits": bit_width, "seed": seed, "method": method, "settings": named(options)}
            if key_of(place) in done:
                continue
            case = case or Case(model, seed)
            done.add(key_of(place))
            options = dict(options)
            refit, weighted = options.pop("refit_scale", False), options.pop("input_weighted", False)
            begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
            row = (
                place | case.run(METHODS[method](**options), case.uniform(bit_width), refit, weighted) | {"date": begun}
            )
            append(given.rows, row)
            print(*row.values(), flush=True)


def named(options: dict) -> str:
    """`lr=0.05 num_steps=200`, in the order of the names; `default` for none."""
    return " ".join(f"{name}={value}" for name, value in sorted(options.items())) or "default"


def key_of(row: dict) -> tuple[str, ...]:
    """What makes a row that row."""
    return tuple(str(row[name]) for name in ("model", "bits", "seed", "method", "settings"))


def append(path: Path, row: dict) -> None:
    """One more row, under a header if it is the first."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
