"""What few photographs and a real network say of the defaults: ridge, layers pinned to 8 bits, copies of images.

python benchmarks/photographs.py <folder of the two packages> outputs/photographs   # once: see there
OMP_NUM_THREADS=1 python benchmarks/defaults.py pins                    # into results/defaults.csv
OMP_NUM_THREADS=1 python benchmarks/defaults.py ridge --networks resnet18_slim mobilenetv2_050 --rows results/ridges.csv
OMP_NUM_THREADS=1 python benchmarks/defaults.py mirrored --seeds 0 1 --rows results/mirrored.csv
OMP_NUM_THREADS=1 python benchmarks/defaults.py mixup --seeds 0 1 --rows results/mixup.csv
OMP_NUM_THREADS=1 python benchmarks/defaults.py inits --seeds 0 1 2 --rows results/inits.csv
python benchmarks/defaults.py ridge --smoke                             # one small setting, into outputs

lite0 is calibrated on photographs and judged on others; the embedded models are judged on 2,048 training images outside
the calibration set, the transformers of small_transformers.py, which trains them, on the test images. SQNR of the
logits in dB, agreement with FP32 and top-1 in percent, KL divergence in nats; bits: W4 is uniform with the first and
last layer at 8, 4.0 is mixed; ridges: one of 0.01 for all layers, shared: chosen layer by layer for the target and
taken for its rounding too, chosen: for each by itself. A row that is there is not run again.
"""

import argparse
import itertools
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import judged as judged_on
import small_transformers
import torch
import tuning
from torch import Tensor
from trials import ROOT, Rows, model_of, product, settle

from attnround.api import ENDS, LAYER, ROUNDINGS
from attnround.bits import Mixed, Uniform
from attnround.data import Photos
from attnround.evaluation import Outputs, fidelity, logits, size_mib
from attnround.graph import Captured
from attnround.machine import processor
from attnround.prepared import Prepared, start
from attnround.quantization.ranges import Float
from attnround.quantization.rounding import AttentionRound
from attnround.reconstruction import reconstruct

PINS = {"none": {}, "first": {"first": 8}, "first, last": ENDS}
EMBEDDED, TRANSFORMERS = ["resnet18_slim", "mobilenetv2_050"], list(small_transformers.NETWORKS)
NETWORKS = ["lite0", *EMBEDDED, *TRANSFORMERS]
KEYS = ("network", "images", "seed", "method", "bits", "pins", "ridge", "copies")
FROM_WEIGHT, FROM_GPTQ = "attention_round from weight", "attention_round from gptq"
ALL_METHODS = {
    **ROUNDINGS,
    FROM_WEIGHT: partial(AttentionRound, init="weight"),
    FROM_GPTQ: partial(AttentionRound, init="gptq"),
}
INITS = ["gptq", FROM_WEIGHT, FROM_GPTQ, "attention_round"]
TARGETS = ["nearest", "gptq", "adaround", "attention_round", FROM_WEIGHT]
GRIDS = {
    "ridge": [
        *product(
            network=["lite0"], images=[202, 64], method=["gptq", FROM_WEIGHT], bits=["4.0"], pins=["none"],
            ridge=["0.01", "shared", "chosen"],
        ),
        *product(
            network=EMBEDDED, images=[1024, 256, 64], method=["gptq", FROM_WEIGHT], bits=["W4", "W2"],
            pins=["first, last"], ridge=["0.01", "shared", "chosen"],
        ),
    ],
    "mirrored": [
        *product(
            network=EMBEDDED, images=[256, 64], method=["gptq"], bits=["W4", "W2"], pins=["first, last"],
            ridge=["shared"], copies=["none", "mirrored"],
        ),
    ],
    "mixup": [
        *product(
            network=EMBEDDED, images=[1024, 256, 64], method=["gptq"], bits=["W4", "W2"], pins=["first, last"],
            ridge=["chosen"], copies=["none", "mixup"],
        ),
        *product(
            network=EMBEDDED, images=[256, 64], method=[FROM_WEIGHT], bits=["W4", "W2"], pins=["first, last"],
            ridge=["chosen"], copies=["none", "mixup"],
        ),
    ],
    "inits": [
        *product(
            network=["lite0"], images=[202], method=INITS, bits=["4.0", "3.0"], pins=["none"],
            ridge=["chosen"],
        ),
        *product(
            network=EMBEDDED, images=[1024], method=INITS, bits=["W4", "W3", "W2"],
            pins=["first, last"], ridge=["chosen"],
        ),
        *product(
            network=TRANSFORMERS, images=[256], method=INITS, bits=["W4", "W3", "W2"],
            pins=["first, last"], ridge=["chosen"],
        ),
    ],
    "pins": [
        *product(network=["lite0"], images=[202], method=["gptq"], bits=["4.0"], pins=PINS, ridge=["shared"]),
        *product(
            network=EMBEDDED, images=[1024], method=["gptq"], bits=["4.0", "3.0", "2.5"], pins=PINS, ridge=["shared"],
        ),
    ],
    "targets": [
        *product(
            network=["lite0"], images=[202], method=TARGETS,
            bits=["4.0", "3.5", "3.0", "2.25"], pins=["none"], ridge=["shared", "chosen"],
        ),
        *product(
            network=["lite0"], images=[202], method=TARGETS,
            bits=["W4", "W3"], pins=["first, last"], ridge=["shared", "chosen"],
        ),
    ],
}  # fmt: skip
SMOKE = product(
    network=["resnet18_slim"], images=[64], method=["gptq"], bits=["W4"], pins=["none"], ridge=["chosen"],
)  # fmt: skip
BITS = sorted({place["bits"] for grid in GRIDS.values() for place in grid})
PHOTOGRAPHS = ROOT / "outputs/photographs"


@dataclass(frozen=True)
class Case:
    """A float model with calibration images of one seed, and the images it is judged on, with labels where known."""

    prepared: Prepared
    judged: Tensor
    labels: Tensor | None
    seed: int


def case_of(network: str, num_images: int, seed: int) -> Case:
    """Read the images and capture the model."""
    if network in EMBEDDED:
        embedded = tuning.Case(network, seed, num_images)
        return Case(embedded.prepared, embedded.held_out, None, seed)
    if network in TRANSFORMERS:
        trained = judged_on.case_of(small_transformers.model_of(network, smoke=False), num_images, None, seed, "none")
        return Case(trained.prepared, trained.images, trained.labels, seed)
    model = model_of(network)
    net = model.build()
    parts = {"root": PHOTOGRAPHS / "calibration", "evaluation": PHOTOGRAPHS / "evaluation"}
    data = Photos(**{name: str(path) for name, path in parts.items()}, num_calibration=num_images, seed=seed)
    data.match(net.preprocessing, net.num_classes)
    prepared = Prepared(model, data.calibration().images, num_images=num_images)
    judged = [batch for batch in data.val_dataloader() if batch is not None]
    return Case(prepared, torch.cat([x for x, _ in judged]), torch.cat([y for _, y in judged]), seed)


def run(case: Case, method: str, bits: str, pins: str, ridge: str, copies: str) -> dict[str, str]:
    """Quantize and judge."""
    fixed = None if ridge in ("shared", "chosen") else float(ridge)
    more = {} if copies == "none" else {copies: True}
    settings = LAYER(ridge=fixed, rounding_ridge=ridge == "chosen", **more)
    kind = (
        Uniform(bit_width=int(bits[1:]), pinned=PINS[pins])
        if bits[0] == "W"
        else Mixed(budget=float(bits), pinned=PINS[pins])
    )
    found = start(case.prepared, kind, Float(), settings, device="cpu", seed=case.seed)
    begun = time.perf_counter()
    reconstruct(
        case.prepared.teacher, found.student, case.prepared.images, ALL_METHODS[method](), settings, seed=case.seed
    )
    seconds = time.perf_counter() - begun
    return judge(case, found.student) | {"mib": f"{size_mib(found.student):.3f}", "seconds": f"{seconds:.1f}"}


def judge(case: Case, student: Captured) -> dict[str, str]:
    """Compare with the float model's outputs, and with labels where there are any."""
    wanted, given = (logits(model, case.judged) for model in (case.prepared.teacher, student))
    measured = {name: f"{value:.4g}" for name, value in fidelity(wanted, given).items()}
    right = "" if case.labels is None else f"{Outputs(given, case.labels).top1:.2f}"
    return measured | {"top1": right}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("grid", choices=GRIDS)
    arguments.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    arguments.add_argument("--methods", nargs="+", default=list(ALL_METHODS), choices=ALL_METHODS)
    arguments.add_argument("--bits", nargs="+", default=BITS, help="of the grid's")
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments.add_argument("--rows", type=Path, default=ROOT / "results/defaults.csv")
    arguments.add_argument("--smoke", action="store_true", help="one small setting, into outputs/smoke.csv")
    given = arguments.parse_args()
    settle()
    asked = {"network": given.networks, "method": given.methods, "bits": given.bits}
    grid = [each for each in GRIDS[given.grid] if all(each[key] in some for key, some in asked.items())]
    path = given.rows
    if given.smoke:
        grid, path = SMOKE, ROOT / "outputs/smoke.csv"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
    rows = Rows(path, KEYS)
    grid.sort(key=lambda each: (each["network"], each["images"]))
    for (network, images), settings in itertools.groupby(grid, lambda each: (each["network"], each["images"])):
        places = [
            {"copies": "none"} | place | {"seed": seed} for seed, place in itertools.product(given.seeds, settings)
        ]
        case = None
        for place in places:
            if place in rows:
                continue
            if case is None or case.seed != place["seed"]:
                case = case_of(network, images, place["seed"])
            begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
            found = run(case, **{key: place[key] for key in ("method", "bits", "pins", "ridge", "copies")})
            rows.add({key: place[key] for key in KEYS} | found | {"processor": processor(), "date": begun})


if __name__ == "__main__":
    main()
