"""Numbers that others published, to stand beside ours. They come from results/published.csv, each with its source."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnround.errors import InputError, reason

MODELS = {  # timm's name -> the name in the sources
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "mobilenetv2_100": "MobileNetV2",
    "regnetx_006": "RegNetX-600MF",
    "regnetx_032": "RegNetX-3.2GF",
}
KINDS = {"fp32": "FP32", "ptq": "PTQ", "qat": "QAT", "mixed": "mixed precision"}


@dataclass(frozen=True)
class Published:
    """One number: ImageNet top-1 in %, and the FP32 top-1 of the same source, if that gives it.

    bits: of weights and activations, 32 for float; weights of mixed precision have a size in MB instead.
    """

    method: str
    kind: str
    weight_bits: int | None
    activation_bits: int
    size_mb: float | None
    model: str
    top1: float
    fp32: float | None
    source: str


def read_published(path: Path) -> list[Published]:
    """All lines of the file, in its order. Raises InputError where it is not what it should be."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = [_published(row) for row in csv.DictReader(file, strict=True)]
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is no file of published numbers ({reason(error)}): take the committed one") from error
    for number, line in enumerate(lines, 2):
        if line.kind not in KINDS or not line.source:
            raise InputError(f"{path}, line {number}: give a kind out of {', '.join(KINDS)} and a source")
    return lines


def beside(place: dict[str, str], published: Sequence[Published]) -> list[Published]:
    """The numbers for the model and the bits, or the size, that a cell's labels name: resnet18, W4, W4A8, 3.5 MB."""
    models = models_of(place)
    amounts = {amount for label in place.values() if (amount := _amount(label))}
    return [
        line
        for line in published
        if line.model in models and amounts & {(line.weight_bits, line.activation_bits), line.size_mb}
    ]


def models_of(place: dict[str, str]) -> set[str]:
    """The sources' names of the models among a cell's labels."""
    return {name for label in place.values() if (name := _model(label))}


def names_place(label: str) -> bool:
    """Whether a label names a model of the sources, bits or a size."""
    return bool(_model(label) or _amount(label))


def _model(label: str) -> str | None:
    return MODELS.get(label.split(".")[0])  # timm's tag of the weights says nothing here


def _amount(label: str) -> tuple[int, int] | float | None:
    if bits := re.fullmatch(r"W(\d+)(?:A(\d+))?", label):
        return int(bits[1]), int(bits[2] or 32)
    return float(label.removesuffix(" MB")) if re.fullmatch(r"\d+(\.\d+)? MB", label) else None


def _published(row: dict[str, str]) -> Published:
    def number(name: str, kind: type) -> float | int | None:
        return kind(row[name]) if row[name] else None

    return Published(
        row["method"],
        row["kind"],
        number("weight_bits", int),
        int(row["activation_bits"]),
        number("size_mb", float),
        row["model"],
        float(row["top1"]),
        number("fp32", float),
        row["source"],
    )
