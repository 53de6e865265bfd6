"""Exported models beside the float network and beside onnxruntime's own quantizer: size, integer kernels, milliseconds.

OMP_NUM_THREADS=1 python benchmarks/deployment.py results/deployment.csv        # on a processor with VNNI
OMP_NUM_THREADS=1 python benchmarks/deployment.py results/deployment_avx2.csv   # on one with AVX2 alone
python benchmarks/deployment.py outputs/smoke.csv --smoke                       # one small network

Every file of a network is timed in turn with the float one, an image at a time, in onnxruntime's default session, with
one thread: with more, those of sessions that wait would keep the cores busy. The embedded networks and lite0 (the extra
[photos]) are trained: SQNR of the logits in dB, agreement with FP32 and top-1 in percent are those of that session on
images that were not calibrated on: the test images, or the labelled photographs. The others have random weights, and
are judged on noise. written_agrees, default_agrees: percent of the images on which the file as it is written, and in
that session, gives the simulation's class; default_db: SQNR of that session's logits against the simulation's;
floor_agrees, floor_db: the same of the simulation itself with PyTorch's own convolutions in place of oneDNN's, which
round float sums otherwise, so that a code at a tie falls to its other side;
over_budget: percent by which the file is larger than the run's budget. What onnxruntime made is quantize_static on the
same float network and images, QDQ, a scale a channel: S8S8 is what its documentation recommends first, U8S8 has
unsigned activations.
"""

import argparse
import csv
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import onnx
import timm
import torch
from judged import case_of
from torch import Tensor, nn
from trials import model_of, photographs, settle

from attnround.api import ENDS, quantize
from attnround.bits import Uniform
from attnround.deploy.comparison import Comparison, compare
from attnround.deploy.kernels import INTEGER_KERNELS
from attnround.deploy.marked import float_graph
from attnround.deploy.runtime import onnx_file, opened
from attnround.deploy.seal import about_export
from attnround.deploy.session import latency, optimised_graph, run, session
from attnround.deploy.static import OPSET, quantized_by_onnxruntime
from attnround.evaluation import Outputs, fidelity, logits, stored_bytes
from attnround.machine import processor
from attnround.prepared import Prepared
from attnround.quantized import Quantized

SETTINGS = [  # bits of weights and of inputs, placement, form of the weights
    (8, 8, "inputs", "runtime"),
    (8, 8, "onnxruntime", "runtime"),
    (8, 8, "onnxruntime", "signed"),
    (7, 8, "onnxruntime", "runtime"),
    (4, 8, "onnxruntime", "runtime"),
    (2, 8, "onnxruntime", "runtime"),
    (4, None, "inputs", "runtime"),
]
NUM_IMAGES = {"embedded": 256, "random": 16}
NUM_TEST = 2000  # test images that an embedded network is judged on
NUM_NOISE = 64  # images that a network of random weights is judged on
JUDGED = [
    "sqnr_db", "agreement", "top1", "fp32_top1", "over_budget", "written_agrees", "default_agrees", "default_db",
    "floor_agrees", "floor_db",
]  # fmt: skip
HEADER = [
    "network", "pixels", "weights", "inputs", "made_by", "placement", "form", "mib", "layers",
    "integer_kernels", "float_kernels", "ms", "float_ms", "speed_up", *JUDGED, "threads", "processor", "onnxruntime",
]  # fmt: skip
FLOAT_KERNELS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add", "Mul"}


@dataclass(frozen=True)
class Case:
    """A float model with calibration images, and images it is judged on; labels: None where it is not trained."""

    prepared: Prepared
    judged: Tensor
    labels: Tensor | None

    @property
    def trained(self) -> bool:
        return self.labels is not None


def embedded(name: str) -> Case:
    case = case_of(model_of(name), NUM_IMAGES["embedded"], NUM_TEST, 0, "none")
    return Case(case.prepared, case.images, case.labels)


def photographed(name: str) -> Case:
    model = model_of(name)
    net = model.build()
    data = photographs()
    data.match(net.preprocessing, net.num_classes)
    judged, labels = zip(*(batch for batch in data.val_dataloader() if batch is not None), strict=True)
    return Case(Prepared(model, data.calibration().images), torch.cat(judged), torch.cat(labels))


def random(name: str) -> Case:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm makes the last of a residual block zero, and so all before it
    calibration, judged = torch.randn(NUM_IMAGES["random"] + NUM_NOISE, *model.pretrained_cfg["input_size"]).split(
        [NUM_IMAGES["random"], NUM_NOISE]
    )
    return Case(Prepared(model, calibration), judged, None)


NETWORKS: dict[str, Callable[[str], Case]] = {
    "resnet18_slim": embedded, "mobilenetv2_050": embedded, "lite0": photographed, "resnet18": random,
    "mobilenetv2_100": random, "vit_tiny_patch16_224": random,
}  # fmt: skip


def ours(case: Case, settings: list[tuple]) -> Iterator[tuple[dict[str, object], bytes]]:
    """What each setting's file is called and how it follows the simulation, and its bytes."""
    for weights, inputs, placement, form in settings:
        rounding = "gptq" if case.trained else "nearest"
        found = quantize(
            case.prepared, bits=Uniform(bit_width=weights, pinned=ENDS), rounding=rounding, activation=inputs,
            placement=placement, progress=False,
        )  # fmt: skip
        content = found._content()
        raw, _ = onnx_file(found.model, content, about_export(content.about), weights=form)
        about = {"weights": weights, "inputs": inputs or 32, "made_by": "attnround", "placement": placement}
        yield about | {"form": form} | followed(case, found, opened(raw, "the file", form), len(raw)), raw


def followed(case: Case, found: Quantized, files: Sequence[Callable[[Tensor], Tensor]], num_bytes: int) -> dict:
    """How a file as it is written, and by default, follows the simulation, and its bytes the budget."""

    def itself(images: Tensor) -> Tensor:
        with torch.backends.mkldnn.flags(enabled=False):
            return found.model(images)

    batches = ((batch.contiguous(), None) for batch in case.judged.split(64))
    written, default, floor = compare(found.model, [*files, itself], batches)
    return {
        "over_budget": f"{100 * (num_bytes / sum(stored_bytes(found.model).values()) - 1):.2f}",
        "written_agrees": f"{written.agreement:.2f}",
        "default_agrees": f"{default.agreement:.2f}",
        "default_db": f"{decibels(default):.2f}",
        "floor_agrees": f"{floor.agreement:.2f}",
        "floor_db": f"{decibels(floor):.2f}",
    }


def decibels(compared: Comparison) -> float:
    """SQNR of all outputs; 200 where they are the same to the bit."""
    signal, noise = (sum(each) for each in zip(*compared.energies.values(), strict=True))
    return 10 * math.log10(signal / max(noise, signal * 1e-20))


def theirs(floats: onnx.ModelProto, images: Tensor) -> Iterator[tuple[dict[str, object], bytes]]:
    """The same by onnxruntime's static quantizer."""
    for form, raw in quantized_by_onnxruntime(floats, images):
        yield {"weights": 8, "inputs": 8, "made_by": "onnxruntime", "form": form}, raw


def kernels(raw: bytes) -> dict[str, int]:
    """Operations that carry the work, in integers and in floats, as onnxruntime's optimised graph has them."""
    kinds = [node.op_type for node in optimised_graph(raw, "the file").node]
    integer = sum(kind in INTEGER_KERNELS or kind.startswith("QLinear") for kind in kinds)
    return {"integer_kernels": integer, "float_kernels": sum(kind in FLOAT_KERNELS for kind in kinds)}


def rows_of(name: str, settings: list[tuple]) -> list[dict]:
    """A row a file of this network, all timed in one run."""
    case = NETWORKS[name](name)
    teacher = case.prepared.teacher
    teacher.preprocessing = {"input_size": list(case.prepared.images.shape[1:])}
    floats = float_graph(teacher, OPSET)
    made = [*ours(case, settings), *theirs(floats, case.prepared.images)]
    sessions = [session(floats.SerializeToString(), "float", {}), *(session(raw, name, {}) for _, raw in made)]
    image = case.prepared.images[:1].contiguous()
    float_ms, *times = latency(sessions, image, rounds=60, seconds=120)
    rows = []
    for (what, raw), ms, runtime in zip(made, times, sessions[1:], strict=True):
        row = {
            "network": name, "pixels": image.shape[-1], **what, "mib": f"{len(raw) / 2**20:.3f}",
            "layers": len(case.prepared.unfolded), **kernels(raw), "ms": f"{ms:.3f}", "float_ms": f"{float_ms:.3f}",
            "speed_up": f"{float_ms / ms:.2f}", "threads": torch.get_num_threads(), "processor": processor(),
            "onnxruntime": version("onnxruntime"),
        }  # fmt: skip
        rows.append(row | judged(case, partial(run, runtime)))
    return rows


def judged(case: Case, give: Callable[[Tensor], Tensor]) -> dict[str, str]:
    """How logits that are given for images follow the float model's, and top-1 of both; nothing of random weights."""
    if case.labels is None:
        return {}
    wanted = logits(case.prepared.teacher, case.judged)
    found = torch.cat([give(batch.contiguous()) for batch in case.judged.split(64)])
    measured = fidelity(wanted, found)
    right = {key: f"{Outputs(each, case.labels).top1:.2f}" for key, each in (("top1", found), ("fp32_top1", wanted))}
    return {key: f"{measured[key]:.2f}" for key in ("sqnr_db", "agreement")} | right


def write_rows(
    about: str,
    header: list[str],
    settings: list[tuple],
    rows_of: Callable[[str, list[tuple]], list[dict]],
    networks: Sequence[str] = tuple(NETWORKS),
) -> None:
    """The command: the rows of every network that it names, or of a small one in two settings, into its file."""
    arguments = argparse.ArgumentParser(description=about.splitlines()[0])
    arguments.add_argument("rows", type=Path)
    arguments.add_argument("--networks", nargs="+", default=networks, choices=NETWORKS)
    arguments.add_argument("--smoke", action="store_true", help="one small network in two settings")
    given = arguments.parse_args()
    networks = ["resnet18_slim"] if given.smoke else given.networks
    tried = settings[:2] if given.smoke else settings
    with given.rows.open("w", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        for name in networks:
            # a process each: OpenVINO's, after two networks of NNCF's, ended at the third
            with ProcessPoolExecutor(1, get_context("spawn"), initializer=settle) as alone:
                rows = alone.submit(rows_of, name, tried).result()
            writer.writerows(rows)
            file.flush()
            for row in rows:
                print(*(f"{key} {value}" for key, value in row.items() if key != "processor"), flush=True)


if __name__ == "__main__":
    write_rows(__doc__, HEADER, SETTINGS, rows_of)
