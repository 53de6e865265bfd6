"""Which measure foretells what bits do to the network's output: random allocations, rounded by GPTQ.

OMP_NUM_THREADS=1 python benchmarks/prediction.py               # into results/prediction.csv
OMP_NUM_THREADS=1 python benchmarks/prediction.py --models resnet18_slim --draws 10

Draws of `bits=random` at one budget, the last layer at 8 bits, calibrated on 1,024 images and judged as in tuning.py.
sqnr_db is measured; the other columns are sums over layers at the draw's bits, as signal to noise in dB: the predicted
change of the logits (bits/network_metric.py); up to a constant, Fisher traces times squared weight errors, and relative
errors of the layers' outputs. Spearman's rank correlation of each with what is measured is printed at the end. A draw
takes 10 s on one core.
"""

import csv
import math

from allocators import Given
from scipy.stats import spearmanr
from trials import Rows, parser, settle
from tuning import Case

from attnround.api import LAYER
from attnround.bits import Allocation, Problem, Random
from attnround.bits.distortion import Table, fisher_errors, output_errors
from attnround.bits.network_metric import predicted_sqnr_db
from attnround.evaluation import logit_sqnr_db, logits
from attnround.prepared import start
from attnround.quantization.ranges import Float
from attnround.quantization.rounding import GPTQ
from attnround.reconstruction import reconstruct

NUM_PROBES = 16
MEASURES = ("network_metric", "fisher", "sensitivity")
SETTINGS = LAYER(output_metric="none")  # which GPTQ makes no use of


def measured(case: Case, allocation: Allocation) -> float:
    """SQNR in dB of the logits with these bits, on the held-out images."""
    prepared, bits = case.prepared, Given(bit_width=allocation.bit_width)
    student = start(prepared, bits, Float(), SETTINGS, device="cpu", seed=case.seed).student
    reconstruct(prepared.teacher, student, prepared.images, GPTQ(), SETTINGS, seed=case.seed)
    return logit_sqnr_db(*(logits(model, case.held_out) for model in (prepared.teacher, student)))


def foretold(allocation: Allocation, problem: Problem) -> dict[str, str]:
    """What each measure says of an allocation, in dB."""
    tables: dict[str, Table] = {
        "fisher": fisher_errors(problem, NUM_PROBES),
        "sensitivity": output_errors(problem),
    }
    sums = {
        name: sum(table[layer][bits] for layer, bits in allocation.bit_width.items()) for name, table in tables.items()
    }
    found = {"network_metric": predicted_sqnr_db(problem, allocation.bit_width)}
    found |= {name: -10 * math.log10(total) for name, total in sums.items()}
    return {name: f"{found[name]:.3f}" for name in MEASURES}


def main() -> None:
    arguments = parser(__doc__, "prediction.csv", seeds=(0,))
    arguments.set_defaults(models=["mobilenetv2_050"])
    arguments.add_argument("--draws", type=int, default=50)
    arguments.add_argument("--budget", type=float, default=3.0)
    given = arguments.parse_args()
    settle()
    rows = Rows(given.rows, ("model", "budget", "seed", "draw"))
    for model in given.models:
        for seed in given.seeds:
            case = Case(model, seed)
            problem = case.prepared.problem(SETTINGS.observer, {}, seed)
            for draw in range(given.draws):
                place = {"model": model, "budget": f"{given.budget:g}", "seed": seed, "draw": draw}
                if place not in rows:
                    allocation = Random(budget=given.budget, seed=draw, pinned={"last": 8}).allocate(problem)
                    row = {"sqnr_db": f"{measured(case, allocation):.3f}"}
                    rows.add(place | row | foretold(allocation, problem))
    with given.rows.open() as file:
        found = list(csv.DictReader(file))
    for measure in MEASURES:
        pairs = [(float(row["sqnr_db"]), float(row[measure])) for row in found]
        print(f"{measure:20s} {spearmanr(*zip(*pairs, strict=True)).statistic:.3f}")


if __name__ == "__main__":
    main()
