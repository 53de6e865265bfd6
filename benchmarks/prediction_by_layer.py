"""What is foretold of a layer alone, and what its rounding by GPTQ does to the logits.

OMP_NUM_THREADS=1 python benchmarks/prediction_by_layer.py             # into results/prediction_by_layer.csv
OMP_NUM_THREADS=1 python benchmarks/prediction_by_layer.py --networks mobilenetv2_050 --every 8

Of every fourth layer and the last one, at 3 and 4 bits with all others float: SQNR of the logits in dB on images that
were not calibrated on, measured, and foretold with `bits.places` together and apart. lite0 needs the photographs that
benchmarks/photographs.py writes. At the end the mean of the error and its standard deviation.
"""

import argparse
import statistics
from pathlib import Path

from defaults import NETWORKS, Case, case_of
from trials import ROOT, Rows, settle

from attnround.api import LAYER
from attnround.bits.network_metric import PLACES, predicted_sqnr_db
from attnround.evaluation import logit_sqnr_db, logits
from attnround.graph import swap_layers
from attnround.quantization.rounding import GPTQ
from attnround.reconstruction.loop import ReconstructionLoop

NUM_IMAGES = {"lite0": 202, "mobilenetv2_050": 1024, "resnet18_slim": 1024}
SETTINGS = LAYER()


def measured(case: Case, name: str, bits: int) -> float:
    """With this layer alone quantized."""
    prepared = case.prepared
    student = swap_layers(prepared.teacher, {name: bits}, SETTINGS.observer)
    metrics = prepared.output_metrics(SETTINGS.metric, case.seed, "cpu")
    loop = ReconstructionLoop(prepared.teacher, student, prepared.images, GPTQ(), SETTINGS, metrics=metrics)
    loop.plan = [step for step in loop.plan if step.unit.name == name]
    loop.quantizers = loop.quantizers[:1]
    loop.run()
    return logit_sqnr_db(*(logits(model, case.judged) for model in (prepared.teacher, student)))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    arguments.add_argument("--every", type=int, default=4, help="how many layers to go on by")
    arguments.add_argument("--rows", type=Path, default=ROOT / "results/prediction_by_layer.csv")
    given = arguments.parse_args()
    settle()
    rows = Rows(given.rows, ("network", "layer", "bits"))
    errors: dict[tuple[str, str], list[float]] = {}
    for network in given.networks:
        case = case_of(network, NUM_IMAGES[network], 0)
        problem = case.prepared.problem(SETTINGS.observer, {}, 0)
        names = [layer.name for layer in problem.layers]
        for name in dict.fromkeys([*names[:: given.every], names[-1]]):
            for bits in (3, 4):
                place = {"network": network, "layer": name, "bits": bits}
                if place in rows:
                    continue
                alone = dict.fromkeys([name], bits)
                found = {places: predicted_sqnr_db(problem, alone, places) for places in PLACES}
                found = {"measured_db": measured(case, name, bits)} | {f"{key}_db": each for key, each in found.items()}
                rows.add(place | {key: f"{value:.2f}" for key, value in found.items()})
                for places in PLACES:
                    errors.setdefault((network, places), []).append(found[f"{places}_db"] - found["measured_db"])
    for (network, places), each in errors.items():
        print(f"{network:20s} {places:10s} {statistics.mean(each):6.2f} +- {statistics.stdev(each):.2f} dB")


if __name__ == "__main__":
    main()
