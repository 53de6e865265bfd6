"""Cross-layer equalization against none: the embedded networks, one scale a weight tensor and one a channel.

OMP_NUM_THREADS=1 python benchmarks/equalization.py            # into results/equalization.csv
python benchmarks/equalization.py --smoke                      # one small setting, into outputs

256 calibration images; top-1 and agreement with FP32 in percent, SQNR of the logits in dB, all on 2,000 test
images. W8A8 is 8 bits for weights and inputs of layers, W4 weights alone; the first and last layer have 8. A row that
is there is not run again.
"""

import argparse
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

from judged import Case, case_of
from torch import Tensor
from trials import MODELS, ROOT, Rows, model_of, product, settle

from attnround.api import ENDS, ROUNDINGS, WEIGHTED
from attnround.bits import Uniform
from attnround.machine import processor
from attnround.prepared import start
from attnround.quantization.grid import Grid
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import Float, Mse
from attnround.reconstruction import LayerReconstruction, reconstruct

NUM_CALIBRATION = 256
NUM_JUDGED = 2000
BITS = {"W8": (8, None), "W8A8": (8, 8), "W4": (4, None), "W4A8": (4, 8), "W4A4": (4, 4)}
KEYS = ("network", "seed", "scales", "bits", "method", "equalization")
EQUALIZATIONS = ["none", "cross_layer"]
GRID = [
    *product(scales=["tensor"], bits=["W8", "W8A8", "W4"], method=["nearest"], equalization=EQUALIZATIONS),
    *product(scales=["channel"], bits=["W4", "W8A8", "W4A8", "W4A4"], method=["nearest"], equalization=EQUALIZATIONS),
    *product(scales=["tensor", "channel"], bits=["W4"], method=["gptq"], equalization=EQUALIZATIONS),
]
SMOKE = product(scales=["tensor"], bits=["W8A8"], method=["nearest"], equalization=EQUALIZATIONS)


@dataclass(frozen=True)
class PerTensor(ClipSearch):
    """One scale for all channels of a weight: what some hardware wants, and the paper's own setting."""

    def search(self, weight: Tensor, grid: Grid, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
        row = None if importance is None else importance.expand_as(weight).reshape(1, -1)
        found = super().search(weight.reshape(1, -1), grid, row)
        return tuple(each.repeat(len(weight)) for each in found)


SCALES = {"tensor": PerTensor(input_weighted=True), "channel": WEIGHTED}


def run(case: Case, seed: int, scales: str, bits: str, method: str) -> dict[str, str]:
    """Quantize and judge."""
    weights, inputs = BITS[bits]
    settings = LayerReconstruction(observer=SCALES[scales], burst=20)
    search = Float() if inputs is None else Mse(inputs, pinned=ENDS)
    prepared, allocator = case.prepared, Uniform(bit_width=weights, pinned=ENDS)
    begun = time.perf_counter()
    student = start(prepared, allocator, search, settings, device="cpu", seed=seed).student
    rounding = ROUNDINGS[method]()
    metrics = {} if rounding.data_free else prepared.output_metrics(settings.metric, seed, "cpu")
    reconstruct(prepared.teacher, student, prepared.images, rounding, settings, seed=seed, metrics=metrics)
    seconds = time.perf_counter() - begun
    return case.measures(student) | {"seconds": f"{seconds:.1f}"}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--networks", nargs="+", default=MODELS, choices=MODELS)
    arguments.add_argument("--methods", nargs="+", default=["nearest", "gptq"], choices=ROUNDINGS)
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments.add_argument("--rows", type=Path, default=ROOT / "results/equalization.csv")
    arguments.add_argument("--smoke", action="store_true", help="one small setting, into outputs/smoke.csv")
    given = arguments.parse_args()
    settle()
    grid, path = [each for each in GRID if each["method"] in given.methods], given.rows
    if given.smoke:
        grid, path = SMOKE, ROOT / "outputs/smoke.csv"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
    rows = Rows(path, KEYS)
    for network, seed, equalization in itertools.product(given.networks, given.seeds, EQUALIZATIONS):
        case = None
        for settings in (each for each in grid if each["equalization"] == equalization):
            place = {"network": network, "seed": seed} | settings
            if place in rows:
                continue
            case = case or case_of(model_of(network), NUM_CALIBRATION, NUM_JUDGED, seed, equalization)
            begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
            found = run(case, seed, *(settings[key] for key in ("scales", "bits", "method")))
            rows.add({key: place[key] for key in KEYS} | found | {"processor": processor(), "date": begun})


if __name__ == "__main__":
    main()
