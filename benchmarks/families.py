"""What works of timm: one architecture of each of its files, the smallest, captured, folded, rounded, saved and loaded.

python benchmarks/families.py results/families.csv

Random weights: it is the mechanism that is tried. A line says `works`, or why it is refused, or how it crashes.
"""

import copy
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import timm
import torch
from torch import nn

from attnround.deploy import load, save
from attnround.errors import InputError
from attnround.files import write_atomically
from attnround.graph import captured, find_layers, fold_batch_norms, left_float, swap_layers
from attnround.models import TimmModel
from attnround.quantization.observer import ClipSearch, sqnr_db
from attnround.results.table import csv_text

EXACT = 1e-6  # of the largest logit, for a fold in float64; a loaded model is the same to the bit
LEAST_DB = 5.0  # of 8-bit weights; random networks amplify their error too
COLUMNS = ("capture_s", "norms_folded", "norms_left", "layers", "share", "sqnr_db", "left_float")


def architectures() -> dict[str, str]:
    """timm's files -> the architecture that computes least, by parameters and pixels."""
    files = defaultdict(list)
    for name in timm.list_models():
        files[timm.model_entrypoint(name).__module__.rpartition(".")[2]].append(name)
    return {file: min(names[:60], key=_cost) for file, names in sorted(files.items())}


def _cost(name: str) -> float:
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except Exception:  # some look at values while they are built
        return float("inf")
    return sum(each.numel() for each in model.parameters()) * model.pretrained_cfg["input_size"][-1] ** 2


@torch.no_grad()
def check(name: str) -> dict[str, object]:
    """Try an architecture; raises what it raises, and AssertionError where a result is wrong."""
    torch.manual_seed(0)
    settings = TimmModel(name, random_init=True)
    net = settings.build()
    awaken(net)
    images = torch.randn(2, *net.preprocessing["input_size"])
    begun = time.perf_counter()
    model = captured(net)
    capture_s = time.perf_counter() - begun
    expected = net(images)
    for some in (images, images[:1]):
        # to the bit, but where a weight lies in memory in another order than a layer's own
        assert (model(some) - net(some)).abs().max() <= EXACT * expected.abs().max(), "other logits once captured"
    exact = copy.deepcopy(model).double()  # random networks amplify the rounding of float32
    expected = exact(images.double())
    fold_batch_norms(exact)
    assert (exact(images.double()) - expected).abs().max() <= EXACT * expected.abs().max(), "folding changes the logits"
    folded, left = fold_batch_norms(model)
    reference = model(images)
    layers = find_layers(model)
    student = swap_layers(model, dict.fromkeys(layers, 8), ClipSearch(num_candidates=2))
    found = student(images)
    fidelity = sqnr_db(reference, found)
    assert fidelity > LEAST_DB, f"8 bits give {fidelity:.1f} dB"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.safetensors"
        save(student, path, {"model": settings.architecture(model), "data": "noise", "method": "nearest"})
        assert torch.equal(load(path)(images), found), "the loaded model gives other logits"
    share = sum(weight.numel() for weight in layers.values()) / sum(each.numel() for each in net.parameters())
    kept = left_float(model, list(layers))
    values = (f"{capture_s:.1f}", len(folded), len(left), len(layers), f"{share:.3f}", f"{fidelity:.1f}", len(kept))
    return dict(zip(COLUMNS, values, strict=True))


def awaken(model: nn.Module) -> None:
    """As after training: no norm is the identity, and no last layer or layer scale is zero."""
    for key, parameter in model.named_parameters():
        if parameter.ndim == 1 and not key.endswith("bias"):
            parameter.uniform_(0.5, 1.5)
        elif not parameter.any() and parameter.ndim > 1:
            parameter.normal_(std=0.02)
    for key, buffer in model.named_buffers():
        if key.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif key.endswith("running_mean"):
            buffer.normal_(std=0.1)


def main(target: str) -> None:
    rows = []
    for file, name in architectures().items():
        measured = dict.fromkeys(COLUMNS, "")
        try:
            outcome, measured = "works", check(name)
        except InputError as error:
            outcome = f"refused: {error}"
        except Exception as error:  # whatever it is, is what the table says
            outcome = f"crashes: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        rows.append({"file": file, "architecture": name, "outcome": outcome, **measured})
        print(f"{file:28} {name:36} {outcome[:120]}", flush=True)
        write_atomically(Path(target), csv_text(rows))
    works = sum(row["outcome"] == "works" for row in rows)
    print(f"{works} of {len(rows)} work; timm {timm.__version__}, torch {torch.__version__}")


if __name__ == "__main__":
    main(*sys.argv[1:])
