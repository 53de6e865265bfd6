"""What works of timm, torchvision and transformers: an architecture of each of their families, from capture to a file.

python benchmarks/families.py results/families.csv

Of timm the smallest of each file, of torchvision's classifiers and segmentation networks the smallest of each name, of
transformers image classifiers shrunk by their configs. Random weights: it is the mechanism that is tried. A line says
`works` where the captured model gives what the original does in the same form, folding changes nothing, 8-bit weights
follow the float ones, and the model that was saved and loaded gives the same to the bit; else it says why the
architecture is refused, or how it crashes.
"""

import copy
import re
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch
import torchvision
import transformers
from torch import Tensor, fx, nn

from attnround.deploy import load, save
from attnround.errors import InputError
from attnround.files import write_atomically
from attnround.graph import (
    Captured,
    captured,
    channels_last,
    find_layers,
    fold_batch_norms,
    joined,
    left_float,
    swap_layers,
    tensors,
)
from attnround.quantization.observer import ClipSearch, sqnr_db
from attnround.table import csv_text
from attnround.zoo import TimmModel

EXACT = 1e-6  # of the largest output, for a capture in float32 and a fold in float64
LEAST_DB = 5.0  # of 8-bit weights; random networks amplify their error too
COLUMNS = (
    "capture_s", "capture_error", "norms_folded", "norms_left", "fold_error", "layers", "share", "sqnr_db",
    "left_float", "loaded",
)  # fmt: skip
TORCHVISION_SIZE = 224
VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
RESNET = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1], "image_size": 64}
PVT = {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4], "image_size": 64}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TRANSFORMERS = {  # image classifier, as `<name>ForImageClassification` -> its config, with the size of its images
    "Beit": VIT,
    "Bit": RESNET | {"num_groups": 4},
    "CLIP": {"vision_config": VIT, "text_config": TEXT, "image_size": 32},
    "ConvNext": RESNET,
    "ConvNextV2": RESNET,
    "Cvt": {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 4], "depth": [1, 2, 3], "image_size": 64},
    "Data2VecVision": VIT,
    "DeiT": VIT,
    "Dinov2": VIT,
    "Dinov2WithRegisters": VIT,
    "EfficientNet": {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320},
    "FocalNet": {"image_size": 32, "embed_dim": 16, "depths": [1, 1, 1, 1]},
    "HGNetV2": {"image_size": 64},
    "Hiera": {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]},
    "IJepa": VIT,
    "Levit": {
        "image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 4], "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "MobileNetV1": {"image_size": 64, "depth_multiplier": 0.25},
    "MobileNetV2": {"image_size": 64, "depth_multiplier": 0.25},
    "MobileViT": {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64]},
    "MobileViTV2": {"image_size": 64, "width_multiplier": 0.25},
    "PPLCNet": {"image_size": 64},
    "PoolFormer": {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "image_size": 64},
    "Pvt": PVT,
    "PvtV2": PVT,
    "RegNet": RESNET | {"groups_width": 8},
    "ResNet": RESNET,
    "Segformer": PVT,
    "Siglip": {"vision_config": VIT, "text_config": TEXT, "image_size": 32},
    "SwiftFormer": {"image_size": 64, "embed_dims": [16, 16, 32, 32], "depths": [1, 1, 1, 1]},
    "Swin": SWIN,
    "Swinv2": SWIN,
    "TextNet": {"image_size": 64},
    "ViT": VIT,
    "ViTMSN": VIT,
}  # fmt: skip


def build(collection: str, name: str) -> nn.Module:
    """The architecture with random weights in eval mode; its attribute `preprocessing` has the size of its images."""
    return BUILDERS[collection](name).eval()


def _timm_model(name: str) -> nn.Module:
    return TimmModel(name, random_init=True).build()


def _torchvision_model(name: str) -> nn.Module:
    segments = name in torchvision.models.list_models(torchvision.models.segmentation)
    none = {"weights": None} | ({"weights_backbone": None} if segments else {})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The default weight initialization", FutureWarning)
        model = torchvision.models.get_model(name, **none)
    model.preprocessing = {"input_size": [3, TORCHVISION_SIZE, TORCHVISION_SIZE]}
    return model


def _transformers_model(name: str) -> nn.Module:
    kind = getattr(transformers, name)
    settings = TRANSFORMERS[name.removesuffix("ForImageClassification")]
    model = kind(kind.config_class(num_labels=10, **settings))
    size = settings["image_size"]
    model.preprocessing = {"input_size": [3, *(size if isinstance(size, list) else (size, size))]}
    return model


BUILDERS: dict[str, Callable[[str], nn.Module]] = {
    "timm": _timm_model,
    "torchvision": _torchvision_model,
    "transformers": _transformers_model,
}


def architectures() -> list[tuple[str, str, str]]:
    """Collection, file and architecture: of each of timm's files and torchvision's names the one that costs least."""
    return [*_of_timm(), *_of_torchvision(), *_of_transformers()]


def _of_timm() -> list[tuple[str, str, str]]:
    files = defaultdict(list)
    for name in timm.list_models():
        files[timm.model_entrypoint(name).__module__.rpartition(".")[2]].append(name)
    return [("timm", file, min(names[:60], key=_timm_cost)) for file, names in sorted(files.items())]


def _of_torchvision() -> list[tuple[str, str, str]]:
    """Classifiers, then segmentation networks; resnext50_32x4d and wide_resnet50_2 are in the file of resnet18."""
    families = defaultdict(list)
    for module in (torchvision.models, torchvision.models.segmentation):
        for name in torchvision.models.list_models(module):
            file = torchvision.models.get_model_builder(name).__module__.removeprefix("torchvision.models.")
            families[file, re.match("[a-z]+", name)[0]].append(name)
    return [("torchvision", file, min(names, key=_torchvision_cost)) for (file, _), names in families.items()]


def _of_transformers() -> list[tuple[str, str, str]]:
    kinds = [getattr(transformers, f"{name}ForImageClassification") for name in TRANSFORMERS]
    return [("transformers", kind.__module__.split(".")[-2], kind.__name__) for kind in kinds]


def _timm_cost(name: str) -> float:
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except Exception:  # some look at values while they are built
        return float("inf")
    return _num_parameters(model) * model.pretrained_cfg["input_size"][-1] ** 2


def _torchvision_cost(name: str) -> int:
    return torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]


def _num_parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


@torch.no_grad()
def check(collection: str, name: str) -> dict[str, object]:
    """Try an architecture; raises what it raises, and AssertionError where a result is wrong."""
    torch.manual_seed(0)
    net = build(collection, name)
    awaken(net)
    images = torch.randn(2, *net.preprocessing["input_size"])
    begun = time.perf_counter()
    model = captured(net)
    capture_s = time.perf_counter() - begun
    # to the bit, but where a weight lies in memory in another order than a layer's own
    errors = [difference(model(some), plain(net, some)) for some in (images, images[:1])]
    assert all(error <= EXACT for error in errors), f"other outputs once captured, by {errors}"
    fold_error = _fold_error(_in_float64(model), images.double())
    assert fold_error <= EXACT, f"folding changes the outputs by {fold_error:.0e}"
    folded, left = fold_batch_norms(model)
    channels_last(model)  # as a run does, and the loader: in another order convolutions round otherwise
    layers = find_layers(model)
    student = swap_layers(model, dict.fromkeys(layers, 8), ClipSearch(num_candidates=2))
    fidelity = sqnr_db(joined(model(images)), joined(student(images)))
    assert fidelity > LEAST_DB, f"8 bits give {fidelity:.1f} dB"
    assert difference(_reloaded(student, collection, name)(images), student(images)) == 0, "other outputs once loaded"
    share = sum(weight.numel() for weight in layers.values()) / _num_parameters(net)
    kept = left_float(model, list(layers))
    values = (
        f"{capture_s:.1f}", f"{max(errors):.0e}", len(folded), len(left), f"{fold_error:.0e}", len(layers),
        f"{share:.3f}", f"{fidelity:.1f}", len(kept), "to the bit",
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _in_float64(model: Captured) -> Captured:
    """A copy that computes in float64, where the forward asks for float32 too."""
    exact = copy.deepcopy(model).double()
    for node in exact.graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate(
            (node.args, node.kwargs), lambda each: torch.float64 if each is torch.float32 else each
        )
    exact.compile_graph()
    return exact


def _fold_error(model: Captured, images: Tensor) -> float:
    """How far folding moves what a model gives in float64, where random networks amplify no rounding of float32."""
    expected = model(images)
    fold_batch_norms(model)
    return difference(model(images), expected)


def _reloaded(student: Captured, collection: str, name: str) -> Captured:
    """The quantized model from its file: timm's from the name in it, others from what makes the float model."""
    if collection == "timm":
        architecture, own = TimmModel(name).architecture(student), None
    else:
        size = student.preprocessing["input_size"]
        architecture, own = {"module": f"{collection}.{name}", "input_size": size}, partial(build, collection, name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.safetensors"
        save(student, path, {"model": architecture, "data": "noise", "method": "nearest"})
        return load(path, own)


def plain(model: nn.Module, images: Tensor) -> object:
    """What a model gives without the fast path of nn.MultiheadAttention in eval mode, which rounds otherwise."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return model(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def difference(found: object, expected: object) -> float:
    """The largest difference of two outputs of one form, each tensor's as a part of its largest value."""
    one, two = tensors(found), tensors(expected)
    assert (type(found), list(one)) == (type(expected), list(two)), "another form"
    return torch.stack([(one[key] - two[key]).abs().max() / two[key].abs().max() for key in two]).max().item()


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
    for collection, file, name in architectures():
        measured = dict.fromkeys(COLUMNS, "")
        try:
            outcome, measured = "works", check(collection, name)
        except InputError as error:
            outcome = f"refused: {error}"
        except Exception as error:  # whatever it is, is what the table says
            outcome = f"crashes: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        rows.append({"collection": collection, "file": file, "architecture": name, "outcome": outcome, **measured})
        print(f"{collection:12} {file:28} {name:36} {outcome[:120]}", flush=True)
        write_atomically(Path(target), csv_text(rows))
    for collection in BUILDERS:
        outcomes = [row["outcome"] == "works" for row in rows if row["collection"] == collection]
        print(f"{sum(outcomes)} of {len(outcomes)} of {collection} work")
    used = (f"{each.__name__} {each.__version__}" for each in (timm, torchvision, transformers, torch))
    print(", ".join(used))


if __name__ == "__main__":
    main(*sys.argv[1:])
