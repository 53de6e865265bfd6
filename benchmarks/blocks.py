"""What block reconstruction gains over the layer objective on a real network, on a CPU: lite0 from 202 photographs.

python benchmarks/photographs.py <folder of the two packages> outputs/photographs   # once: see there
OMP_NUM_THREADS=1 python benchmarks/blocks.py                   # into results/blocks.csv
OMP_NUM_THREADS=1 python benchmarks/blocks.py --bits W3 --objectives logits --seeds 0
python benchmarks/blocks.py --smoke                             # one small setting, into outputs

Uniform bits, the first and the last layer at 8, Attention Round. `layer` is the layer objective alone; all else starts
from its result, block by block. SQNR of the logits in dB, agreement with FP32 and top-1 in percent, KL divergence in
nats; kept: blocks whose result was no worse than its start, of all; steps: taken by blocks, of those planned;
seconds: of the whole reconstruction. A row that is there is not run again.
"""

import argparse
import time
from pathlib import Path

import torch
from defaults import Case, case_of, judge
from trials import ROOT, Rows, named, product, settle

from attnround.api import BLOCK, ENDS, LAYER
from attnround.bits import Uniform
from attnround.machine import processor
from attnround.prepared import start
from attnround.quantization.ranges import Float
from attnround.quantization.rounding import AttentionRound
from attnround.reconstruction import BlockReconstruction, Reconstruction, UnitReport, reconstruct

GENTLE = {"num_steps": 100, "burst": 10, "refine": True, "patience": 3}
OBJECTIVES = {
    "layer": {},
    "mse": GENTLE,
    "logits": GENTLE | {"loss": "logits"},
    "logits, whole schedule": {"num_steps": 100, "loss": "logits"},
}
KEYS = ("network", "images", "seed", "bits", "objective", "options")
GRID = product(network=["lite0"], images=[202], bits=["W3", "W2"], objective=list(OBJECTIVES))
SMOKE = product(network=["resnet18_slim"], images=[64], bits=["W3"], objective=["logits"])


def settings_of(objective: str, num_steps: int | None) -> Reconstruction:
    """num_steps: in place of the grid's."""
    if objective == "layer":
        return LAYER()
    replaced = {} if num_steps is None else {"num_steps": num_steps}
    return BLOCK(layer_first=LAYER(), **OBJECTIVES[objective] | replaced)


def run(case: Case, bits: str, settings: Reconstruction) -> dict[str, str]:
    """Quantize and judge."""
    allocator = Uniform(bit_width=int(bits[1:]), pinned=ENDS)
    found = start(case.prepared, allocator, Float(), settings, device="cpu", seed=case.seed)
    begun = time.perf_counter()
    reports = reconstruct(
        case.prepared.teacher, found.student, case.prepared.images, AttentionRound(), settings, seed=case.seed
    )
    seconds = time.perf_counter() - begun
    return judge(case, found.student) | course(settings, reports) | {"seconds": f"{seconds:.1f}"}


def course(settings: Reconstruction, reports: list[UnitReport]) -> dict[str, str]:
    """What became of the blocks; empty where there are none."""
    if not isinstance(settings, BlockReconstruction):
        return {"kept": "", "steps": ""}
    blocks = [report for report in reports if report.objective != "layer"]
    steps = sum(min(len(report.losses) * settings.burst, settings.num_steps) for report in blocks)
    return {
        "kept": f"{sum(report.kept for report in blocks)} of {len(blocks)}",
        "steps": f"{steps} of {len(blocks) * settings.num_steps}",
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--bits", nargs="+", default=["W3", "W2"], choices=["W3", "W2"])
    arguments.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=OBJECTIVES)
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments.add_argument("--num-steps", type=int, help="of a block, in place of the grid's")
    arguments.add_argument("--rows", type=Path, default=ROOT / "results/blocks.csv")
    arguments.add_argument("--smoke", action="store_true", help="one small setting, into outputs/smoke_blocks.csv")
    given = arguments.parse_args()
    settle()
    grid = [place for place in GRID if place["bits"] in given.bits and place["objective"] in given.objectives]
    path, num_steps = given.rows, given.num_steps
    if given.smoke:
        grid, path, num_steps = SMOKE, ROOT / "outputs/smoke_blocks.csv", 4
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
    rows = Rows(path, KEYS)
    for seed in given.seeds:
        case = None
        for place in grid:
            settings = settings_of(place["objective"], num_steps)
            options = named(OBJECTIVES[place["objective"]] | ({} if num_steps is None else {"num_steps": num_steps}))
            place = place | {"seed": seed, "options": "" if place["objective"] == "layer" else options}
            if place in rows:
                continue
            case = case or case_of(place["network"], place["images"], seed)
            begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
            found = run(case, place["bits"], settings)
            measured_by = {"threads": torch.get_num_threads(), "processor": processor(), "date": begun}
            rows.add({key: place[key] for key in KEYS} | found | measured_by)


if __name__ == "__main__":
    main()
