"""Transformers and a ConvNeXt with quantized inputs: small ones, trained on Fashion-MNIST.

OMP_NUM_THREADS=1 python benchmarks/small_transformers.py      # into results/small_transformers.csv
python benchmarks/small_transformers.py --smoke                # one setting of an untrained network, into outputs

A network that is not in outputs/small_transformers yet is trained there first, with AdamW, on all 60,000 images: 20 to
60 minutes on one core. `attention` says whether what attention's products take is quantized too, `equalization` whether
the channels behind LayerNorms are evened first. W4A8 is 4 bits for weights and 8 for inputs, P8 8 bits for attention's
probabilities; the first and the last layer have 8. 256 calibration images; top-1 and agreement with FP32 in percent,
SQNR of the logits in dB, all on the 10,000 test images. A row that is there is not run again.
"""

import argparse
import itertools
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from judged import Case, case_of
from trials import ROOT, Rows, product, settle

from attnround import quantize
from attnround.api import ENDS
from attnround.machine import processor
from attnround.quantization.ranges import Mse
from attnround.zoo import TimmModel

PLACE = ROOT / "outputs/small_transformers"
NUM_CALIBRATION = 256
BITS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}
WIDER = "W4A4P8"  # W4A4 with 8 bits for attention's probabilities
KEYS = ("network", "seed", "bits", "method", "attention", "equalization")
SIZE = {"input_size": [1, 28, 28], "mean": [0.2860], "std": [0.3530]}


@dataclass(frozen=True)
class Network:
    """timm's name and arguments, and how many epochs each cycle of its training has."""

    name: str
    arguments: dict
    cycles: tuple[int, ...]
    attends: bool = True


NETWORKS = {
    "vit": Network(
        "vit_tiny_patch16_224",
        {"img_size": 28, "patch_size": 4, "in_chans": 1, "embed_dim": 64, "depth": 4, "num_heads": 4},
        (6, 8),
    ),
    "swin": Network(
        "swin_tiny_patch4_window7_224",
        {"img_size": 28, "patch_size": 2, "window_size": 7, "in_chans": 1, "embed_dim": 32, "depths": [2, 2],
         "num_heads": [2, 4]},
        (6,),
    ),
    "convnext": Network(
        "convnext_atto",
        {"in_chans": 1, "patch_size": 2, "output_stride": 8, "depths": [1, 1, 2, 1], "dims": [24, 48, 96, 96]},
        (4,),
        attends=False,
    ),
}  # fmt: skip
SMOKE = product(bits=["W4A8"], method=["nearest"], attention=[True], equalization=["layer_norm"])


def settings_of(network: str) -> list[dict]:
    """Those without equalization first."""
    attention = [False, True] if NETWORKS[network].attends else [False]
    others = ["nearest", "attention_round"]
    return [
        *product(bits=list(BITS), method=["gptq"], attention=attention, equalization=["none"]),
        *product(bits=list(BITS), method=others, attention=attention[-1:], equalization=["none"]),
        *product(bits=[WIDER], method=["gptq"], attention=[True] * NETWORKS[network].attends, equalization=["none"]),
        *product(bits=list(BITS), method=["gptq"], attention=attention, equalization=["layer_norm"]),
    ]


def trained(network: str) -> Path:
    """The weights of a network, which is trained where it is not there yet, cycle after cycle."""
    about, weights = NETWORKS[network], None
    for cycle, num_epochs in enumerate(about.cycles):
        folder = PLACE / f"{network}_{cycle}"
        if not (folder / "model.safetensors").exists():
            start = ["model.random_init=true"] if weights is None else [
                "model.random_init=false", f"model.checkpoint={weights}"
            ]  # fmt: skip
            options = [
                "experiment=pretrain", "model=timm", f"model.name={about.name}", f"model.arguments={about.arguments}",
                "model.num_classes=10", f"model.preprocessing={SIZE}", "training.optimizer=adamw", "training.lr=0.002",
                "training.weight_decay=0.05", f"training.num_epochs={num_epochs}", f"hydra.run.dir={folder}", *start,
            ]  # fmt: skip
            words = [each.replace(": ", ":").replace(", ", ",").replace("'", "") for each in options]
            subprocess.run([sys.executable, ROOT / "src/train.py", *words], check=True)
        weights = folder / "model.safetensors"
    return weights


def model_of(network: str, smoke: bool) -> TimmModel:
    """The trained network; of a smoke run an untrained one."""
    about = NETWORKS[network]
    weights = {"random_init": True} if smoke else {"checkpoint": str(trained(network))}
    return TimmModel(about.name, num_classes=10, arguments=about.arguments, preprocessing=SIZE, **weights)


def run(case: Case, seed: int, bits: str, method: str, attention: bool) -> dict[str, str]:
    """Quantize and judge."""
    weights, inputs = BITS[bits.removesuffix("P8")]
    pinned = ENDS | ({"*.probability": 8} if bits == WIDER else {})
    search = Mse(inputs, pinned=pinned, attention=attention)
    begun = time.process_time()
    found = quantize(case.prepared, bits=weights, rounding=method, activation=search, seed=seed, progress=False)
    seconds = time.process_time() - begun
    return case.measures(found.model) | {"cpu_seconds": f"{seconds:.1f}"}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments.add_argument("--rows", type=Path, default=ROOT / "results/small_transformers.csv")
    arguments.add_argument("--smoke", action="store_true", help="one setting of an untrained network, into outputs")
    given = arguments.parse_args()
    settle()
    if given.smoke:
        given.networks, given.rows = ["vit"], ROOT / "outputs/smoke.csv"
        given.rows.parent.mkdir(exist_ok=True)
        given.rows.unlink(missing_ok=True)
    rows = Rows(given.rows, KEYS)
    for network, seed in itertools.product(given.networks, given.seeds):
        case, equalized = None, ""
        for settings in SMOKE if given.smoke else settings_of(network):
            place = {"network": network, "seed": seed} | settings
            if place in rows:
                continue
            if case is None or equalized != settings["equalization"]:
                equalized = settings["equalization"]
                case = case_of(
                    model_of(network, given.smoke), NUM_CALIBRATION, 100 if given.smoke else None, seed, equalized
                )
            begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
            found = run(case, seed, settings["bits"], settings["method"], settings["attention"])
            rows.add({key: place[key] for key in KEYS} | found | {"processor": processor(), "date": begun})


if __name__ == "__main__":
    main()
