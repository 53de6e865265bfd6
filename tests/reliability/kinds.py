"""The kinds of files that this project reads, each with a small good one."""

import dataclasses
import functools
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import torch as safetensors
from safetensors.torch import save as serialised
from torch import nn

import attnround
from attnround.bits import File, Layer, Problem
from attnround.deploy import open_model
from attnround.deploy.seal import ENTRY, NO_DIGEST, seal
from attnround.experiment.card import write_card
from attnround.experiment.identity import identity
from attnround.experiment.schema import read_record, read_run
from attnround.experiment.trials import Trials
from attnround.files import digest_of, sealed_json
from attnround.qat.run import load_weights as load_training
from attnround.qat.run import read as read_training
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import ClipSearch
from attnround.reconstruction import Checkpoint, UnitReport
from attnround.reconstruction.report import LayerReport
from attnround.study.gather import LINE, line_of
from attnround.study.row import Row, read_rows, recorded_row, write_row
from attnround.zoo.checkpoint import load as load_weights
from attnround.zoo.checkpoint import read as read_weights
from tests.reliability.damage import Kind

SLOW = ("quantized.safetensors", "quantized.onnx", "quantized.pt2")  # each is captured or exported first


def kinds() -> dict[str, Callable[[], Kind]]:
    """Name -> what makes such a file."""
    return {
        **{kind.name: partial(_same, kind) for kind in _of_a_run()},
        "allocation.json": lambda: Kind("allocation.json", _allocation(), _bits, parts=json.loads, sealed=False),
        "bits in YAML": lambda: Kind("bits in YAML", b"a: 4\nb: 8\n", _bits, ".yaml", sealed=False),
        "reconstruction.pt": _reconstruction,
        "a checkpoint of QAT": _training,
        "float weights, .pth": partial(_weights, ".pth"),
        "float weights, .safetensors": partial(_weights, ".safetensors"),
        "quantized.safetensors": _packed,
        "quantized.onnx": partial(_exported, ".onnx"),
        "quantized.pt2": partial(_exported, ".pt2"),
    }


def _same(kind: Kind) -> Kind:
    return kind


SHA, LAYERS = "f" * 64, [Layer("a", torch.zeros(3, 2)), Layer("b", torch.zeros(2, 3))]
RECORD = {
    "config_hash": "c0ffee", "seed": 0, "date": "2026-01-01", "git_revision": "abc", "num_threads": 2,
    "choices": {
        "model": "timm", "data": "fashion_mnist", "quantizer": "gptq", "bits": "uniform", "activation": "mse",
        "reconstruction": "layer", "qat": "none", "experiment": None,
    },
    "versions": {"torch": "2.15", "timm": "1.0"}, "processor": "some, 2 cores", "device": "cpu", "weights": "its own",
    "metrics": {
        "fp32/top1": 93.95, "nearest/top1": 93.0, "quantized/top1": 94.04, "nearest/agreement": 99.0,
        "quantized/agreement": 99.76, "bits/mean": 3.99, "bits/size_mib": 0.5, "fp32/size_mib": 2.5,
        "quantized/sqnr_db": "Infinity", "time/total_s": 3.5,
    },
    "calibration": {"source": "images", "indices": [1, 2, 3]},
    "allocation": {"bit_width": {"a": 8, "b": 3}},
    "activation_bits": {"a": 8},
    "left_float": ["LayerNorm at norm"],
    "evaluation": {"images": 100, "correct": {}},
    "licence": {"weights": None, "data": "MIT"},
    "deployed": {
        "file": "quantized.safetensors", "bytes": 1000, "sha256": SHA, "fingerprint": "e" * 64,
        "parts": {"weights": 800, "scales": 40, "biases": 40},
    },
    "config": {
        "seed": 0, "model": {"name": "resnet18", "pretrained": True, "checkpoint": None},
        "data": {"root": "/data", "limit": None}, "bits": {"bit_width": 4, "budget": None},
        "activation": {"bit_width": 8, "placement": "inputs"}, "paths": {"root": "/home/me/project"},
    },
}  # fmt: skip
FREE = {  # in a record: what may be missing, and what may be of several kinds
    "metrics.*": ("gone",), "activation_bits.*": ("gone",), "allocation.bit_width.*": ("gone",), "weights": ("gone",),
    "left_float.*": ("gone",), "calibration.indices.*": ("gone",), "deployed.parts.*": ("gone",),
    "licence.*": ("str", "NoneType"), "choices.*": ("str", "NoneType", "gone"),
    "config.model.checkpoint": ("str", "gone"), "config.model.pretrained": ("gone",),
    "config.bits.*": ("number", "NoneType", "gone"), "config.activation*": ("gone",),
    "config.activation.bit_width": ("NoneType",),
    "config.data.*": ("str", "number", "bool", "NoneType", "list", "gone"),
}  # fmt: skip
FREE_OF_ROW = {
    "metrics.*": ("gone",), "versions.*": ("gone",), "correct.*": ("gone",), "error": ("str", "NoneType"),
}  # fmt: skip
VERIFIED = {
    "sha256": SHA, "date": "2026-01-02", "data": "fashion_mnist", "verdict": "all is proven.",
    "findings": ["weights: 0 differ"], "network": {"images": 500}, "faults": [],
}  # fmt: skip


def _of_a_run() -> Iterator[Kind]:
    def content(raw: bytes) -> object:
        return {key: value for key, value in json.loads(raw).items() if key != "digest"}

    def sealed(_: bytes, other: object) -> bytes:
        return sealed_json(other, 2).encode() if isinstance(other, dict) and "\ud800" not in other else b"null"

    def own_row(_: bytes, other: dict) -> bytes:
        other = {key: value for key, value in other.items() if key != "digest"}
        return json.dumps(other | {"digest": digest_of(other)}).encode()

    plain, verified = json.dumps(RECORD).encode(), sealed_json(VERIFIED, 2).encode()
    yield Kind("record.json", sealed_json(RECORD, 2).encode(), _record, parts=content, joined=sealed, free=FREE)
    yield Kind("an older record.json", plain, _record, parts=json.loads, sealed=False, free=FREE)
    yield Kind("trials.json", _trials(), _tried, parts=content, joined=sealed, free={"trials.*": ("gone",)})
    more = {"findings.*": ("gone",)}
    yield Kind("verify.json", verified, _verified, parts=content, joined=sealed, free=more)
    yield Kind("a row", _row(), _rows, parts=content, joined=own_row, free=FREE_OF_ROW)


def _record(path: Path) -> object:
    """All that is made of a record."""
    folder = path.parent / "run"
    folder.mkdir(exist_ok=True)
    (folder / "record.json").write_bytes(path.read_bytes())
    (folder / "verify.json").unlink(missing_ok=True)
    write_card(folder)
    record, row = read_record(folder), recorded_row(folder, {"seed": 0}, "train")
    data = record["config"]["data"] if isinstance(record["config"]["data"], dict) else None
    return (folder / "model_card.md").read_text(), line_of(read_run(folder / "record.json", LINE)), repr(row), data


def _verified(path: Path) -> object:
    folder = path.parent / "verified"
    folder.mkdir(exist_ok=True)
    (folder / "record.json").write_text(json.dumps(RECORD))
    (folder / "verify.json").write_bytes(path.read_bytes())
    write_card(folder)
    return (folder / "model_card.md").read_text()


def _row() -> bytes:
    config = {"seed": 0, "bits": {"bit_width": 2}, "data": {"num_calibration": 64}}
    row = Row(
        config_hash=identity(config, {}), command="python src/train.py", choices={}, seed=0, error=None,
        metrics={"quantized/top1": 90.0, "quantized/sqnr_db": float("inf"), "time/total_s": 3.0},
        correct={"quantized": np.array([True, False, True])}, device="cpu", num_threads=1, git_revision="abc",
        date="2026", config=config, versions={"torch": "2"},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        write_row(row, Path(folder))
        (path,) = Path(folder).iterdir()
        return path.read_bytes()


def _trials() -> bytes:
    trials = [{"budget": 8.0, "mean_bits": 8.0, "agreement": 99.5}, {"budget": 5, "mean_bits": 4.9, "agreement": 98.0}]
    return sealed_json({"identity": "it", "trials": trials}, 2).encode()


def _tried(path: Path) -> object:
    return Trials(path, "it").read()


def _rows(path: Path) -> object:
    rows = read_rows(path.parent, [path.stem])
    return repr(dataclasses.replace(rows[path.stem], correct={})), repr(rows[path.stem].correct)


def _allocation() -> bytes:
    rows = [{"layer": each.name, "shape": list(each.weight.shape), "bits": 4, "score": None} for each in LAYERS]
    return json.dumps({"mean_bits": 4.0, "convention": "", "budget": "4", "layers": rows}).encode()


def _bits(path: Path) -> object:
    return File(path=str(path)).allocate(Problem(LAYERS)).bit_width


def _state(content: dict) -> object:
    """Tensors as what they hold, so that they compare by ==."""
    if isinstance(content, dict):
        return {key: _state(value) for key, value in content.items()}
    if isinstance(content, torch.Tensor):
        return content.dtype, content.tolist()
    return [_state(each) for each in content] if isinstance(content, list) else content


def _torch(raw: bytes) -> dict:
    return torch.load(io.BytesIO(raw), weights_only=True)


def _saved(_: bytes, content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _student() -> nn.Module:
    torch.manual_seed(0)
    model, observer = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), ClipSearch(num_candidates=2)
    for name in "01":
        layer, grid = model.get_submodule(name), observer.grid(3)
        model.set_submodule(name, QuantizedLayer(layer, grid, *observer.search(layer.weight, grid)))
    return model


def _reconstruction() -> Kind:
    student = _student()
    layer = LayerReport("0", "linear", [3, 4], 12, 3, float("inf"), 1.5, 0.0)
    report = UnitReport("0", "layer", [layer], 10.0, 12.0, True, [3.0, 2.0], 0.5)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "it.pt", "it")
        checkpoint.save(student, [report])
        good = checkpoint.path.read_bytes()

    def restored(path: Path) -> object:
        student = _student()
        reports = Checkpoint(path, "it").restore(student)
        return repr(reports), _state(dict(student.state_dict()))

    free = {"reports.0.losses.*": ("gone",), "reports.0.layers.0.shape.*": ("gone",)}
    return Kind("reconstruction.pt", good, restored, ".pt", _torch, _saved, free=free)


def _training() -> Kind:
    epoch = {"epoch": 0, "loss": 1.0, "held_out_loss": 2.0, "held_out_top1": 50.0, "seconds": 0.5}
    about = {"identity": "it", "curve": [epoch]}
    good = _saved(b"", {"epoch": 0, "state_dict": {"w": torch.arange(6.0)}, "qat": about})

    def trained(path: Path) -> object:
        net = nn.Module()
        net.w = nn.Parameter(torch.zeros(6))
        load_training(net, path, "it")
        return _state(read_training(path, "it")["qat"]), _state(dict(net.state_dict()))

    return Kind("a checkpoint of QAT", good, trained, ".ckpt", _torch, _saved)


IMAGES = (2, 1, 6, 6)


@functools.cache
def _quantized() -> tuple[nn.Module, attnround.Quantized]:
    """A small network of one's own, and what is made of it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    images = torch.randn(8, *IMAGES[1:])
    return net, attnround.quantize(net, images, rounding="nearest", activation=8, progress=False)


def _packed() -> Kind:
    net, found = _quantized()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "q.safetensors"
        found.save(path)
        raw = path.read_bytes()

    def header(raw: bytes) -> object:
        length = int.from_bytes(raw[:8], "little")
        return json.loads(json.loads(raw[8 : 8 + length])["__metadata__"][ENTRY])

    def resealed(raw: bytes, about: object) -> bytes:
        entry = json.dumps(about | {"sha256": NO_DIGEST} if isinstance(about, dict) else about)
        return _sealed(serialised(safetensors.load(raw), {ENTRY: entry}))

    return Kind("quantized.safetensors", raw, lambda path: _logits(path, net), ".safetensors", header, resealed)


def _sealed(raw: bytes) -> bytes:
    try:
        return seal(raw)[0]
    except ValueError:  # it has no place for a checksum any more
        return raw


def _logits(path: Path, own: nn.Module | None = None) -> object:
    with torch.no_grad():
        return open_model(str(path), own and (lambda: own))(torch.ones(IMAGES)).tolist()


def _exported(suffix: str) -> Kind:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"q{suffix}"
        _quantized()[1].export(path)
        return Kind(f"quantized{suffix}", path.read_bytes(), _logits, suffix)


def _weights(suffix: str) -> Kind:
    torch.manual_seed(0)
    state = dict(nn.Linear(4, 3).state_dict())
    raw = serialised(state) if suffix == ".safetensors" else _saved(b"", {"state_dict": state, "epoch": 3})

    def loaded(path: Path) -> object:
        net = nn.Linear(4, 3)
        load_weights(net, read_weights(str(path)), str(path))
        return _state(dict(net.state_dict()))

    sealed = suffix != ".safetensors"  # which has no checksum
    return Kind(f"float weights, {suffix}", raw, loaded, suffix, sealed=sealed)
