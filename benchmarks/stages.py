"""Where the time of the layer objective goes on real networks: CPU seconds by stage, beside the floor, in one run.

python benchmarks/stages.py results/profile.csv [--smoke]

Random weights and 1,024 noise images at 224 pixels, Attention Round from the weights at 4 bits. Seconds are those of
the processor, not of the clock, so that a busy machine counts the same. The stages `ranges` and `bits` are what 8-bit
activations and bits=mixed add. The floor is what no way round can spare: a float forward pass of all images through
either model, and one matrix product of the weights' errors with the inputs' second moments a step and layer.
"""

import cProfile
import pstats
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import timm
import torch
from torch import Tensor

from attnround.api import ALLOCATORS, ENDS, LAYER
from attnround.bits import Uniform
from attnround.files import write_atomically
from attnround.graph import find_layers
from attnround.graph.batches import in_batches
from attnround.machine import memory_kept, peak_mib, processor
from attnround.prepared import Prepared, start
from attnround.quantization.ranges import Float, Mse
from attnround.quantization.rounding import AttentionRound
from attnround.reconstruction import reconstruct
from attnround.table import csv_text

NETWORKS = ("tf_efficientnet_lite0", "mobilenetv2_100", "resnet18")
NUM_IMAGES, SIDE = 1024, 224
# Stage -> the functions that are it, as file:function. What is behind a slash is a part of the stage before it.
AHEAD = {
    "capture": ("prepared.py:__init__",),
    "ranges": ("calibration/activations.py:calibrate_activations",),
    "bits": ("bits/budget.py:allocate",),
}
STAGES = {
    "output metric": ("calibration/output_metric.py:measure",),
    "scale search": ("quantization/observer.py:search",),
    "carrying": ("calibration/walk.py:_run",),
    "moments": ("calibration/moments.py:add", "calibration/moments.py:moments"),
    "choosing the ridges": ("reconstruction/ridge.py:choose_ridges",),
    "solving": ("reconstruction/objective.py:__init__",),
    "learning": ("reconstruction/unit.py:run",),
    "learning / products": ("~:<built-in method torch.bmm>",),
    "learning / moments of levels": ("gaussian.py:_table", "gaussian.py:locate", "gaussian.py:read"),
    "acceptance": ("reconstruction/unit.py:finish",),
}


def noise(num_images: int, side: int) -> Tensor:
    """Smooth noise images [N, 3, side, side]."""
    torch.manual_seed(0)
    coarse = torch.randn(num_images, 3, side // 8, side // 8)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    begun = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - begun) / repeats


def times_of(profile: cProfile.Profile, stages: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """Seconds of each stage, with all that its functions call."""
    taken: dict[str, float] = {}
    for (file, _, name), (*_, with_calls, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        place = f"{file}:{name}"
        taken[place] = max(taken.get(place, 0.0), with_calls)  # of two of a name in a file, one calls the other
    return {
        stage: sum(value for place, value in taken.items() if place.endswith(functions))
        for stage, functions in stages.items()
    }


@torch.no_grad()
@memory_kept()
def floor_of(prepared: Prepared, num_steps: int) -> dict[str, float]:
    """CPU seconds of what no way round can spare."""
    batches = in_batches(prepared.images, 64)
    forward = seconds(lambda: [prepared.teacher(batch) for batch in batches])
    product = 0.0
    for name, weight in find_layers(prepared.teacher).items():
        groups, n = getattr(prepared.teacher.get_submodule(name), "groups", 1), weight[0].numel()
        rows, second = torch.rand(groups, len(weight) // groups, n), torch.rand(groups, n, n)
        out = torch.empty_like(rows)
        product += seconds(lambda r=rows, s=second, o=out: torch.bmm(r, s, out=o), 3)
    return {"two forward passes": 2 * forward, "products of the steps": num_steps * product}


def measure(name: str, num_images: int, side: int, num_steps: int) -> list[dict[str, object]]:
    """The rows of a network."""
    method, settings = AttentionRound(num_steps=num_steps, init="weight"), LAYER()
    ahead, run = cProfile.Profile(time.process_time), cProfile.Profile(time.process_time)
    prepared = ahead.runcall(Prepared, timm.create_model(name).eval(), noise(num_images, side))
    ahead.runcall(start, prepared, ALLOCATORS["mixed"](), Mse(8, pinned=ENDS), settings, device="cpu", seed=0)
    begun = time.process_time()
    uniform = Uniform(bit_width=4, pinned=ENDS)
    plain = run.runcall(start, prepared, uniform, Float(), settings, device="cpu", seed=0)
    run.runcall(reconstruct, prepared.teacher, plain.student, prepared.images, method, settings)
    total = time.process_time() - begun
    found = times_of(ahead, AHEAD) | times_of(run, STAGES)
    found["bookkeeping"] = total - sum(found[stage] for stage in STAGES if "/" not in stage)
    found["all at 4 bits"] = total
    floor = floor_of(prepared, num_steps)
    found |= {f"floor / {key}": value for key, value in floor.items()}
    found["floor"] = sum(floor.values())
    return [
        {
            "network": name,
            "stage": stage,
            "cpu_s": f"{value:.1f}",
            "of_floor": f"{value / found['floor']:.2f}",
            "peak_mib": f"{peak_mib():.0f}",
            "num_images": num_images,
            "num_threads": torch.get_num_threads(),
            "processor": processor(),
            "torch": torch.__version__,
        }
        for stage, value in found.items()
    ]


def main(target: str, *names: str) -> None:
    smoke = "--smoke" in names
    sizes = (8, 64, 2) if smoke else (NUM_IMAGES, SIDE, AttentionRound().num_steps)
    chosen = [name for name in names if not name.startswith("-")] or NETWORKS[: 1 if smoke else None]
    rows = []
    for name in chosen:  # each in a process of its own, for its peak of memory
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(measure, name, *sizes).result()
        for row in found:
            print(f"{name:24} {row['stage']:34} {row['cpu_s']:>8} s {row['of_floor']:>7} of the floor")
        rows += found
        write_atomically(Path(target), csv_text(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
