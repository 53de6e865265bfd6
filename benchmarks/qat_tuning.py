"""Which settings of quantization-aware training are best: rows of a grid over models, bits and data.

OMP_NUM_THREADS=1 python benchmarks/qat_tuning.py rates         # a grid, into results/qat_tuning.csv
OMP_NUM_THREADS=1 python benchmarks/qat_tuning.py rates --models resnet18_slim --bits 2/4

Judged on 5,000 of the 60,000 training images, which no training here sees and the float model saw; never on the test
images. A model is quantized once by GPTQ, first and last layer at 8 bits, and trained from there with every setting. A
setting whose row is there is skipped, so a stopped grid goes on.
"""

import itertools
import tempfile
import time
from functools import cache
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from trials import PINNED, ROOT, Rows, model_of, named, parser, product, settle

from attnround.bits import Uniform
from attnround.data import FashionMNIST, HeldOut
from attnround.prepared import Prepared
from attnround.prepared import start as start_of
from attnround.qat import Lsq, finetune
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import Float, Mse
from attnround.quantization.rounding import GPTQ
from attnround.reconstruction import LayerReconstruction, reconstruct
from attnround.trainer import TrainerSettings

NUM_SHIPPED, NUM_JUDGED = 10_000, 5_000
FLOAT = 32  # the word for inputs that are not quantized


# Options of qat=lsq, and data: shipped (10,000 images with labels) or full (60,000). None: the start itself.
GRIDS = {
    "starts": [None],
    "rates": product(num_epochs=[2], batch_norm=["reestimated"], lr=[0.003, 0.01, 0.03]),
    "norms": product(num_epochs=[2], batch_norm=["folded"], lr=[0.003])
    + product(num_epochs=[2], batch_norm=["reestimated"], lr=[0.01]),
    "teachers": product(num_epochs=[2], batch_norm=["reestimated"], lr=[0.01], distillation=[4.0]),
    "data": product(num_epochs=[1], batch_norm=["reestimated"], lr=[0.01]),
}


class Case:
    """A float model, and what it is calibrated, trained and judged with."""

    def __init__(self, name: str, seed: int):
        model = model_of(name)
        net = model.build()
        self.seed = seed
        self.data = {which: self.images_of(net, which == "full") for which in ("shipped", "full")}
        self.prepared = Prepared(model, self.data["shipped"].calibration().images)
        held_out = HeldOut(self.data["full"], Lsq.held_out, 1).held_out
        indices = [index for index in held_out.indices if index >= NUM_SHIPPED][:NUM_JUDGED]
        self.judged = [values[indices] for values in held_out.dataset.tensors]
        self.start = cache(self.start)

    def images_of(self, net: nn.Module, full: bool) -> FashionMNIST:
        """The shipped training images, or all of them."""
        root = OmegaConf.load(ROOT / "conf/data/fashion_mnist.yaml").train_root
        data = FashionMNIST(str(ROOT / "assets/fashion_mnist"), seed=self.seed, full_train=full, train_root=root)
        data.match(net.preprocessing, net.num_classes)
        return data

    def start(self, weight_bits: int, input_bits: int, start: str) -> nn.Module:
        """The student that training starts from: rounded by GPTQ (ptq) or to nearest (fp32)."""
        settings = LayerReconstruction(observer=ClipSearch(input_weighted=True))
        search = Float() if input_bits == FLOAT else Mse(bit_width=input_bits, pinned=PINNED)
        bits = Uniform(bit_width=weight_bits, pinned=PINNED)
        student = start_of(self.prepared, bits, search, settings, device="cpu", seed=self.seed).student
        if start == "ptq":
            gptq = GPTQ(damping=0.0, order="activation")
            reconstruct(self.prepared.teacher, student, self.prepared.images, gptq, settings, seed=self.seed)
        return student

    def run(self, weight_bits: int, input_bits: int, start: str, data: str, options: dict | None) -> dict[str, str]:
        """Train and judge."""
        student, seconds = self.start(weight_bits, input_bits, start), 0.0
        if options is not None:
            settings = Lsq(**(defaults() | options | {"start": start}))
            labelled = HeldOut(self.data[data], settings.held_out, settings.batch_size)
            torch.manual_seed(self.seed)
            with tempfile.TemporaryDirectory() as folder:
                tuned = finetune(
                    self.prepared.teacher, student, labelled, self.prepared.images, self.prepared.norms, settings,
                    TrainerSettings(), Path(folder) / "qat",
                )  # fmt: skip
            student, seconds = tuned.student, tuned.seconds
        return judge(student, self.judged) | {"seconds": f"{seconds:.1f}"}


def defaults() -> dict:
    """What a row's settings do not name."""
    return {"num_epochs": 1, "lr": 0.01, "weight_decay": 1e-4, "label_smoothing": 0.1, "distillation": 1.0}


@torch.no_grad()
def judge(student: nn.Module, judged: list[Tensor]) -> dict[str, str]:
    """top1 in percent, and the cross-entropy."""
    images, labels = judged
    logits = torch.cat([student(batch) for batch in images.split(500)])
    right = (logits.argmax(1) == labels).double().mean().item()
    return {"held_out_top1": f"{100 * right:.2f}", "held_out_loss": f"{cross_entropy(logits, labels).item():.4f}"}


def main() -> None:
    arguments = parser(__doc__, "qat_tuning.csv", seeds=[0])
    arguments.add_argument("grid", choices=GRIDS)
    arguments.add_argument("--bits", nargs="+", default=["2/4", "2/32"], help="of weights and inputs; 32: float")
    arguments.add_argument("--starts", nargs="+", default=["ptq"], choices=["ptq", "fp32"])
    arguments.add_argument("--data", nargs="+", default=["shipped"], choices=["shipped", "full"])
    given = arguments.parse_args()
    settle()
    rows = Rows(given.rows, ("model", "bits", "seed", "start", "data", "settings"))
    case_of = cache(Case)
    axes = (given.seeds, given.models, given.bits, given.starts, given.data, GRIDS[given.grid])
    for seed, model, bits, start, data, options in itertools.product(*axes):
        settings = "none" if options is None else named(options)
        place = {"model": model, "bits": bits, "seed": seed, "start": start, "data": data, "settings": settings}
        if place in rows:
            continue
        begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        found = case_of(model, seed).run(*map(int, bits.split("/")), start, data, options)
        rows.add(place | {"epochs": (options or {}).get("num_epochs", 0)} | found | {"date": begun})


if __name__ == "__main__":
    main()
