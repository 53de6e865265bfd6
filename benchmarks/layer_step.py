"""What a step of the layer objective costs, against the number of images and of bits, in one run.

python benchmarks/layer_step.py results/layer_step.csv

A 3x3 convolution of 128 channels on 14x14 maps; medians of alternating steps, as ratios to 256 images and 4 bits.
"""

import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

from attnround.calibration.moments import gather_moments
from attnround.files import write_atomically
from attnround.graph.patches import Patches
from attnround.machine import processor
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import ClipSearch
from attnround.quantization.rounding import AttentionRound
from attnround.reconstruction import LayerReconstruction
from attnround.reconstruction.layer import LayerUnit
from attnround.table import csv_text

CASES = ((256, 4), (4096, 4), (256, 8))
NUM_STEPS = 60


def unit_of(num_images: int, bit_width: int) -> LayerUnit:
    """The layer's unit, its moments gathered from this many images."""
    torch.manual_seed(0)
    layer, observer = nn.Conv2d(128, 128, 3, padding=1), ClipSearch()
    grid = observer.grid(bit_width)
    student = QuantizedLayer(nn.Conv2d(128, 128, 3, padding=1), grid, *observer.search(layer.weight, grid))
    batches = (torch.randn(64, 128, 14, 14).relu() for _ in range(num_images // 64))
    patches = Patches(layer, 49, torch.Generator().manual_seed(0))
    moments = gather_moments(layer, ((x, x) for x in batches), patches)
    settings = LayerReconstruction(observer=observer)
    return LayerUnit("layer", layer, student, moments, moments, AttentionRound(), settings, torch.Generator())


def main(target: str) -> None:
    units = {case: unit_of(*case) for case in CASES}
    times: dict[tuple[int, int], list[float]] = {case: [] for case in CASES}
    for step in range(NUM_STEPS):
        for case, unit in units.items():
            begun = time.perf_counter()
            unit.run(range(step, step + 1))
            times[case].append(time.perf_counter() - begun)
    rows = []
    for (num_images, bit_width), taken in times.items():
        ratio = statistics.median(one / other for one, other in zip(taken, times[CASES[0]], strict=True))
        rows.append(
            {
                "num_images": num_images,
                "bit_width": bit_width,
                "ratio": f"{ratio:.3f}",
                "step_ms": f"{1000 * statistics.median(taken):.2f}",
                "num_threads": torch.get_num_threads(),
                "processor": processor(),
                "torch": torch.__version__,
            }
        )
        print(f"{num_images:5} images, {bit_width} bits: {ratio:.2f} times a step of 256 images at 4 bits")
    write_atomically(Path(target), csv_text(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
