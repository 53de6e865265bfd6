"""How low the layer objective comes, and in what time: rounding methods on the same problems, with few steps and many.

OMP_NUM_THREADS=1 python benchmarks/descent.py results/descent.csv      # and results/descent.png, some 5 minutes

The problems are those of every fourth layer of the embedded models at 4, 3 and 2 bits, as GPTQ leaves the layers before
(1,024 calibration images, seed 0; the layers at 8 bits are left out). objective: the decided levels' error, as a ratio
to AdaRound's with its own 2,000 steps, geometric mean over the layers; worst: the largest of the ratios; seconds: of
the process, all layers together. "Attention Round by Adam" is what it was before its means moved by coordinates: 400
steps at a rate of 0.05, here with autograd's gradient.
"""

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import tuning
from torch import Tensor
from trials import MODELS, PINNED, settle

from attnround.api import LAYER
from attnround.bits import Uniform
from attnround.files import write_atomically
from attnround.machine import processor
from attnround.prepared import start
from attnround.quantization.grid import Grid
from attnround.quantization.ranges import Float
from attnround.quantization.rounding import (
    GPTQ,
    AdaRound,
    AttentionRound,
    CoordinateDescent,
    Objective,
    Rounding,
    RoundingMethod,
)
from attnround.reconstruction import reconstruct
from attnround.study.pictures.marks import Line, Panel, Point, Scale
from attnround.study.pictures.panels import Frame, draw_panels
from attnround.table import csv_text

BITS = (4, 3, 2)
STRIDE = 4  # of the layers, one in so many
ADA, OWN, ADAM, GREEDY = "AdaRound", "Attention Round", "Attention Round by Adam", "GPTQ, coordinate descent"
METHODS: list[tuple[str, RoundingMethod]] = [
    *((ADA, AdaRound(num_steps=steps)) for steps in (2000, 500)),
    *((OWN, AttentionRound(num_steps=steps)) for steps in (25, 100, 400)),
    *((ADAM, AttentionRound(num_steps=steps, init="weight")) for steps in (100, 400)),
    (GREEDY, CoordinateDescent(init="gptq")),
]


@dataclass(frozen=True)
class Problem:
    """What a layer's rounding is given."""

    u: Tensor
    grid: Grid
    objective: Objective
    zero_point: Tensor | float


class Recorder(GPTQ):
    """GPTQ that keeps the problems it is given."""

    problems: ClassVar[list[Problem]] = []

    def start(
        self,
        u: Tensor,
        grid: Grid,
        objective: Objective,
        generator: torch.Generator,
        zero_point: Tensor | float = 0.0,
    ) -> Rounding:
        self.problems.append(Problem(u, grid, objective, zero_point))
        return super().start(u, grid, objective, generator, zero_point)


def problems_of(case: tuning.Case, bit_width: int) -> list[Problem]:
    """Of every fourth layer of this width."""
    Recorder.problems.clear()
    prepared, settings, bits = case.prepared, LAYER(), Uniform(bit_width=bit_width, pinned=PINNED)
    student = start(prepared, bits, Float(), settings, device="cpu", seed=0).student
    reconstruct(prepared.teacher, student, prepared.images, Recorder(), settings, seed=0)
    return [each for each in Recorder.problems if each.grid.qmax < 2**bit_width][::STRIDE]


def solve(problem: Problem, method: RoundingMethod, by_adam: bool) -> tuple[float, float]:
    """The objective of the decided levels, and the seconds that they took."""
    begun = time.process_time()
    objective, generator = problem.objective, torch.Generator().manual_seed(0)
    rounding = method.start(problem.u, problem.grid, objective, generator, problem.zero_point)
    step = Rounding.step if by_adam else type(rounding).step
    if learned := list(rounding.parameters()):
        optimizer = torch.optim.Adam(learned, method.lr, fused=True)
        for number in range(method.num_steps):
            rounding.anneal(number / method.num_steps)
            step(rounding, objective, optimizer)
    levels = rounding.decide()
    return float(objective(levels)), time.process_time() - begun


def rows_of(model: str, bit_width: int, cases: list[Problem]) -> list[dict[str, object]]:
    """A row for each method and number of steps; the first is what the others are compared with."""
    rows, reference = [], []
    for name, method in METHODS:
        errors, seconds = zip(*(solve(problem, method, name == ADAM) for problem in cases), strict=True)
        reference = reference or errors
        ratios = [math.log(error / other) for error, other in zip(errors, reference, strict=True)]
        rows.append(
            {
                "model": model,
                "bits": bit_width,
                "method": name,
                "steps": method.num_steps,
                "objective": f"{math.exp(sum(ratios) / len(ratios)):.4f}",
                "worst": f"{math.exp(max(ratios)):.4f}",
                "seconds": f"{sum(seconds):.2f}",
                "layers": len(cases),
                "processor": processor(),
                "torch": torch.__version__,
            }
        )
        print(*list(rows[-1].values())[:-2], flush=True)
    return rows


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """A panel for each model and width."""
    panels = []
    for model, bit_width in dict.fromkeys((row["model"], row["bits"]) for row in rows):
        inside = [row for row in rows if (row["model"], row["bits"]) == (model, bit_width)]
        lines = []
        for place, name in enumerate((OWN, ADA, ADAM, GREEDY)):
            points = [Point(float(row["seconds"]), float(row["objective"])) for row in inside if row["method"] == name]
            lines.append(Line(name, place, name == OWN, sorted(points, key=lambda point: point.x)))
        panels.append(Panel(f"{model}, W{bit_width}", lines, None, Scale("seconds", "log10")))
    frame = Frame("lines", "layer objective, AdaRound's = 1")
    draw_panels(panels, frame, [path], "The layer objective that rounding methods reach, against the seconds they take")


def main(target: str) -> None:
    settle()
    rows = []
    for model in MODELS:
        case = tuning.Case(model, seed=0)
        for bit_width in BITS:
            rows += rows_of(model, bit_width, problems_of(case, bit_width))
    write_atomically(Path(target), csv_text(rows))
    draw(rows, Path(target).with_suffix(".png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
