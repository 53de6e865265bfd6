"""Which allocator, and which convention of the coding length, is best for the network's output: rows of a grid.

OMP_NUM_THREADS=1 python benchmarks/allocators.py               # into results/allocation.csv
OMP_NUM_THREADS=1 python benchmarks/allocators.py --seeds 0 --models resnet18_slim --budgets 3

Judged as in tuning.py, with weights rounded in closed form (coordinate descent from GPTQ: 10 s a run on one core).
rank_correlation: Spearman's, between the allocator's score and the measured sensitivity: the noise of the logits with
one layer alone at 4 bits, as 1/2 log2 of it a weight. seconds: the allocation, with all that it asked.
"""

import itertools
import math
import time
from dataclasses import dataclass, field

from scipy.stats import spearmanr
from trials import PINNED, Rows, parser, product, settle
from tuning import Case

from attnround.bits import Allocation, Allocator, Fisher, Mixed, Problem, Random, RateDistortion, Sensitivity, Uniform
from attnround.bits.distortion import network_errors
from attnround.quantization.observer import ClipSearch
from attnround.quantization.rounding import CoordinateDescent

ALLOCATORS = {
    "uniform": Uniform, "mixed": Mixed, "sensitivity": Sensitivity, "fisher": Fisher,
    "rate_distortion": RateDistortion, "random": Random,
}  # fmt: skip
GRID = [
    ("uniform", {}), ("mixed", {}), ("mixed", {"relative_to": "prediction"}),
    *[("mixed", each) for each in [
        *product(eps=[0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0], relative_to=["rms"]),
        *product(eps=[0.01, 0.1, 1.0], vectors=["inputs"], relative_to=["rms"]),
        *product(eps=[0.01, 0.1, 1.0, 3.0, 10.0], input_weighted=[True], relative_to=["rms"]),
        *product(eps=[0.01, 0.1], relative_to=["max"]),
        *product(eps=[0.001, 0.01], relative_to=["nothing"]),
        *product(eps=[0.1], input_weighted=[True], relative_to=["nothing"]),
        *product(eps=[0.01, 0.1, 0.3, 1.0], relative_to=["fisher"]),
        *product(eps=[0.1], codebook=[True], relative_to=["rms"]),
        *product(eps=[0.1], folded=[False], relative_to=["rms"]),
        *product(eps=[0.1], rule=["cluster"], relative_to=["rms"]),
    ]],
    ("sensitivity", {}), ("sensitivity", {"measure": "network"}), ("fisher", {}),
    ("rate_distortion", {}), ("rate_distortion", {"h": "moments"}),
    *[("random", {"seed": seed}) for seed in range(3)],
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Given(Allocator):
    """Bits that were found already."""

    bit_width: dict[str, int]
    pinned: dict[str, int] = field(default_factory=dict)

    def allocate(self, problem: Problem) -> Allocation:
        return Allocation(self.bit_width)


def rank_correlation(score: dict[str, float], problem: Problem) -> float:
    """Spearman's, over the layers that are not pinned."""
    errors = network_errors(problem)
    free = problem.layers[1:-1]
    measured = [0.5 * math.log2(errors[layer.name][4] / layer.weight.numel()) for layer in free]
    return spearmanr([score[layer.name] for layer in free], measured).statistic


def main() -> None:
    arguments = parser(__doc__, "allocation.csv")
    arguments.add_argument("--budgets", nargs="+", type=float, default=[2.5, 3, 4])
    arguments.add_argument("--only", nargs="+", default=[], help="settings to run, as their rows name them")
    given = arguments.parse_args()
    settle()
    rows = Rows(given.rows, ("model", "budget", "seed", "allocator"))
    for seed, model in itertools.product(given.seeds, given.models):
        case, problem = None, None
        for budget, (name, options) in itertools.product(given.budgets, GRID):
            settings = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
            place = {"model": model, "budget": f"{budget:g}", "seed": seed, "allocator": settings}
            if place in rows or (given.only and settings not in given.only):
                continue
            case = case or Case(model, seed)
            problem = problem or case.prepared.problem(ClipSearch(), {}, case.seed)
            rows.add(place | judge(case, problem, ALLOCATORS[name](budget=budget, pinned=PINNED, **options)))


def judge(case: Case, problem: Problem, allocator: Allocator) -> dict[str, str]:
    """Allocate, quantize a copy in closed form and judge it."""
    begun, clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()), time.perf_counter()
    allocation = allocator.allocate(problem)
    seconds = time.perf_counter() - clock
    result = case.run(CoordinateDescent(init="gptq"), Given(bit_width=allocation.bit_width), False, True)
    correlation = f"{rank_correlation(allocation.score, problem):.3f}" if allocation.score else ""
    return {
        "mean_bits": f"{allocation.mean_bits(problem.layers):.4f}",
        "sqnr_db": result["sqnr_db"],
        "agreement": result["agreement"],
        "rank_correlation": correlation,
        "seconds": f"{seconds:.2f}",
        "date": begun,
    }


if __name__ == "__main__":
    main()
