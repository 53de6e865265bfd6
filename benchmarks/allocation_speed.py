"""How long the bits of ResNet-50 take, in one run: coding lengths, the water level, and the integer programme.

python benchmarks/allocation_speed.py results/allocation_speed.csv

54 layers, 7 candidates, random weights, metrics of outputs and covariances of inputs; medians of five. A sweep asks for
the coding lengths once and for the rest at every budget.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor

from attnround.bits import Convention, Mixed, Problem
from attnround.bits.distortion import weight_errors
from attnround.bits.network_metric import network_rates
from attnround.bits.programme import least_distortion
from attnround.bits.waterfill import waterfill
from attnround.experiment.record import git_revision
from attnround.files import write_atomically
from attnround.graph import capture, find_layers, fold_batch_norms
from attnround.machine import processor
from attnround.table import csv_text

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5


def seconds(work: Callable[[], object]) -> float:
    """Median of a few runs."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def second_moment(n: int) -> Tensor:
    """[1, n, n] of random values."""
    values = torch.randn(1, n, n)
    return values @ values.mT / n


def main(target: str) -> None:
    """Measure and write the rows."""
    torch.manual_seed(0)
    model = capture(timm.create_model("resnet50"), torch.zeros(1, 3, 224, 224))
    fold_batch_norms(model)
    problem = Problem.of(find_layers(model))
    metrics = {layer.name: second_moment(len(layer.weight)) for layer in problem.layers}
    covariances = {layer.name: second_moment(layer.weight[0].numel()) for layer in problem.layers}

    def in_the_networks_metric() -> dict[str, float]:
        measured = dataclasses.replace(
            problem, output_metrics=lambda kind: metrics, shrunk_moments=lambda: covariances, answers={}
        )
        return network_rates(measured, "logits")

    convention, allocator = Convention(), Mixed(budget=4.0, pinned={"first": 8, "last": 8})
    slots, fixed = allocator.slots(problem)
    limit = 4 * sum(layer.weight.numel() for layer in problem.layers) - fixed
    lengths = {layer.name: convention.rate(convention.spectrum(layer.weight)) for layer in problem.layers}
    score = [slot.mean(lengths) for slot in slots]
    errors = weight_errors(problem)
    tables = [errors[slot.layers[0].name] for slot in slots]
    stages = {
        "coding lengths in the network's metric": in_the_networks_metric,
        "coding lengths of the weights": lambda: [convention.spectrum(layer.weight) for layer in problem.layers],
        "waterfill": lambda: waterfill(slots, score, limit),
        "integer programme": lambda: least_distortion(slots, tables, limit),
    }
    rows = [
        {
            "stage": stage,
            "layers": len(problem.layers),
            "candidates": len(slots[0].costs),
            "seconds": f"{seconds(work):.4f}",
            "git_revision": git_revision(ROOT),
            "torch": torch.__version__,
            "device": processor(),
            "num_threads": torch.get_num_threads(),
        }
        for stage, work in stages.items()
    ]
    write_atomically(Path(target), csv_text(rows))
    for row in rows:
        print(row["stage"], row["seconds"])


if __name__ == "__main__":
    main(*sys.argv[1:])
