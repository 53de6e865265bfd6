"""Which settings of a rounding method are best for the network's output: rows of a grid, over models, bits and seeds.

OMP_NUM_THREADS=1 python benchmarks/tuning.py attention_round               # the whole grid, into results/tuning.csv
OMP_NUM_THREADS=1 python benchmarks/tuning.py flexround --bits 2 --seeds 0 --models resnet18_slim

Judged on 2,048 training images outside the calibration set, without labels: SQNR of the logits in dB, and agreement
with FP32 in percent. Uniform bits, first and last layer at 8. A setting whose row is there is skipped, so a stopped
grid goes on. A run takes 10 s for a closed form, 15 s for Attention Round and 130 s for AdaRound, on one core.
"""

import itertools
import time

from trials import PINNED, ROOT, Rows, model_of, named, parser, product, settle

from attnround.bits import Allocator, Uniform
from attnround.data import FashionMNIST
from attnround.evaluation import agreement, logit_sqnr_db, logits
from attnround.prepared import Prepared, start
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import Float
from attnround.quantization.rounding import (
    GPTQ,
    AdaRound,
    AttentionRound,
    CoordinateDescent,
    FlexRound,
    Nearest,
    RoundingMethod,
    Stochastic,
)
from attnround.reconstruction import LayerReconstruction, reconstruct

NUM_CALIBRATION, NUM_HELD_OUT = 1024, 2048
METHODS = {
    "nearest": Nearest, "stochastic": Stochastic, "adaround": AdaRound, "attention_round": AttentionRound,
    "flexround": FlexRound, "gptq": GPTQ, "coordinate_descent": CoordinateDescent,
}  # fmt: skip


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
    """A float model with its calibration images of one seed, and the images it is judged on."""

    def __init__(self, name: str, seed: int, num_calibration: int = NUM_CALIBRATION):
        model = model_of(name)
        net = model.build()
        data = FashionMNIST(str(ROOT / "assets/fashion_mnist"), num_calibration + NUM_HELD_OUT, seed=seed)
        data.match(net.preprocessing, net.num_classes)
        images = data.calibration().images
        self.prepared = Prepared(model, images, num_images=num_calibration)
        self.held_out, self.seed = images[num_calibration:], seed

    def run(
        self, quantizer: RoundingMethod, bits: Allocator, refit_scale: bool, input_weighted: bool
    ) -> dict[str, str]:
        """Quantize and judge."""
        settings = LayerReconstruction(observer=ClipSearch(input_weighted=input_weighted), refit_scale=refit_scale)
        prepared = self.prepared
        student = start(prepared, bits, Float(), settings, device="cpu", seed=self.seed).student
        begun = time.perf_counter()
        reconstruct(prepared.teacher, student, prepared.images, quantizer, settings, seed=self.seed)
        seconds = time.perf_counter() - begun
        wanted, given = (logits(model, self.held_out) for model in (prepared.teacher, student))
        return {
            "sqnr_db": f"{logit_sqnr_db(wanted, given):.3f}",
            "agreement": f"{agreement(wanted, given):.3f}",
            "seconds": f"{seconds:.1f}",
        }


def main() -> None:
    arguments = parser(__doc__, "tuning.csv")
    arguments.add_argument("grid", choices=GRIDS)
    arguments.add_argument("--bits", nargs="+", type=int, default=[4, 3, 2])
    given = arguments.parse_args()
    settle()
    rows = Rows(given.rows, ("model", "bits", "seed", "method", "settings"))
    for seed, model in itertools.product(given.seeds, given.models):
        case = None
        for bit_width, (method, options) in itertools.product(given.bits, GRIDS[given.grid]):
            settings = named(options) or "default"
            place = {"model": model, "bits": bit_width, "seed": seed, "method": method, "settings": settings}
            if place in rows:
                continue
            case = case or Case(model, seed)
            options = dict(options)
            refit, weighted = options.pop("refit_scale", False), options.pop("input_weighted", False)
            begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
            found = case.run(METHODS[method](**options), Uniform(bit_width=bit_width, pinned=PINNED), refit, weighted)
            rows.add(place | found | {"date": begun})


if __name__ == "__main__":
    main()
