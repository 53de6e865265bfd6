"""What a step of block reconstruction costs against the bare float block's forward, backward and Adam, in one run.

python benchmarks/block_step.py results/block_step.csv

On the CPU, 32 images a step; medians of alternating steps. The bare block learns its own weights on the same inputs.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

from attnround.calibration.walk import Walk
from attnround.files import write_atomically
from attnround.graph import capture, find_layers, fold_batch_norms, swap_layers
from attnround.graph.trace import executor, graph_of
from attnround.machine import processor
from attnround.quantization.observer import ClipSearch
from attnround.quantization.rounding import AdaRound, AttentionRound, RoundingMethod
from attnround.reconstruction import BlockReconstruction
from attnround.reconstruction.plan import Bench
from attnround.table import csv_text

NUM_IMAGES, NUM_STEPS = 64, 21
BLOCKS = {
    "resnet18 layer2.1": ("resnet18", "layer2.1", (128, 28, 28)),
    "resnet18 layer4.1": ("resnet18", "layer4.1", (512, 7, 7)),
    "mobilenetv2_100 blocks.4.1": ("mobilenetv2_100", "blocks.4.1", (96, 14, 14)),
}
METHODS = {
    "attention_round sigma 0.5": AttentionRound(sigma=0.5, sigma_end=0.5, num_steps=20000),
    "attention_round sigma 0.05": AttentionRound(sigma=0.05, sigma_end=0.05, num_steps=20000),
    "adaround": AdaRound(num_steps=20000),
}


def seconds(step: Callable[[], None]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def float_step(block: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> Callable[[], None]:
    """One step of the bare block."""
    optimizer = torch.optim.Adam(block.parameters(), 1e-3, fused=True)

    def step() -> None:
        chosen = torch.randperm(len(images))[:32]
        loss = (block(images[chosen]) - targets[chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def block_step(block: nn.Module, images: torch.Tensor, quantizer: RoundingMethod) -> Callable[[], None]:
    """One step of the reconstruction of the block."""
    graph = graph_of(block)
    student = swap_layers(block, dict.fromkeys(find_layers(block), 4), ClipSearch())
    settings = BlockReconstruction(observer=ClipSearch(), granularity="network", burst=1)
    (plan,) = settings.plan(graph, block, images[:1])
    walk = Walk(graph, executor(block, graph), executor(student, graph), list(images.split(32)), 4096)
    generator = torch.Generator().manual_seed(0)
    bench = Bench(block, student, graph, walk, quantizer, generator, len(images), 0, 2, False)
    unit = settings.begin(plan.unit, bench)
    return lambda: unit.run(range(10000, 10001))  # half-way through the schedules


def main(target: str) -> None:
    rows = []
    for name, (model, place, shape) in BLOCKS.items():
        for method, quantizer in METHODS.items():
            torch.manual_seed(0)
            block = capture(timm.create_model(model).eval().get_submodule(place), torch.zeros(1, *shape))
            fold_batch_norms(block)
            images = torch.randn(NUM_IMAGES, *shape).relu()
            with torch.no_grad():
                targets = block(images)
            ours = block_step(block, images, quantizer)
            bare = float_step(block.requires_grad_(), images, targets)
            ours(), bare()
            times = [(seconds(ours), seconds(bare)) for _ in range(NUM_STEPS)]
            ratio = statistics.median(one / other for one, other in times)
            rows.append(
                {
                    "block": name,
                    "method": method,
                    "ratio": f"{ratio:.3f}",
                    "step_ms": f"{1000 * statistics.median(one for one, _ in times):.1f}",
                    "num_threads": torch.get_num_threads(),
                    "processor": processor(),
                    "torch": torch.__version__,
                }
            )
            print(f"{name:28} {method:28} {ratio:.2f} times the bare step")
    write_atomically(Path(target), csv_text(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
