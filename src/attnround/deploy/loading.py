"""From the content of a file to the model that was measured."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from attnround.deploy.file import Content, StoredLayer, read
from attnround.deploy.openvino import load_ir
from attnround.deploy.probe import differs, probe
from attnround.deploy.program import load_program
from attnround.deploy.runtime import load_onnx
from attnround.deploy.seal import preprocessing_of
from attnround.errors import InputError, choice, listed, reason
from attnround.graph import (
    QUANTIZABLE,
    Captured,
    cap_channels,
    capture,
    captured,
    channels_last,
    find_edges,
    fold_batch_norms,
    with_edges,
)
from attnround.quantization.layers import QuantizedLayer, float_state
from attnround.quantization.ranges import PLACEMENTS
from attnround.quantization.storage import state_digest
from attnround.zoo import Blueprint

ARCHITECTURE = {"name", "num_classes", "small_image_stem", "arguments", "preprocessing"}
READS_FILES = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}  # timm's


Factory = Callable[[], nn.Module]


def load(path: str | Path, model: nn.Module | Factory | None = None) -> Captured:
    """The model of a file in eval mode, with `preprocessing`, `num_classes` and `about`; its logits are those saved.

    model: the float module, or what makes it, where the file is of the caller's own one; its weights are not looked at.
    Raises InputError as `read` does, and where the model, or what this timm builds, is another than the one saved.
    """
    return build(read(path), str(path), model)


@torch.no_grad()
def build(content: Content, source: str, own: nn.Module | Factory | None = None) -> Captured:
    """The model: built as the float one was, batch norms folded, caps in place, layers swapped for the stored ones."""
    model = _timm_model(content, source) if own is None else _own_model(own, content.about, source)
    fold_batch_norms(model)
    _cap(model, content, source)
    channels_last(model)
    if content.placement not in PLACEMENTS:
        raise InputError(f"{source} is not as it was written: {choice('placement', content.placement, PLACEMENTS)}")
    model = with_edges(model, content.placement, content.about.get("attention", False))
    for stored in content.layers:
        _swap(model, stored, source, content.about)
    edges = find_edges(model)
    if edges.keys() != content.edges.keys():
        raise _another_model(source, content.about, listed(sorted(edges.keys() ^ content.edges.keys())))
    for name, quantizer in content.edges.items():
        edges[name].activation = quantizer
    held = float_state(model)
    differing = [key for key in held.keys() | content.floats.keys() if _shape(held, key) != _shape(content.floats, key)]
    if differing:
        raise _another_model(source, content.about, listed(sorted(differing)))
    for key, value in content.floats.items():
        held[key].copy_(value)
    model.about = content.about
    model.eval()
    mark = content.about.get("probe")
    if mark is not None and differs(probe(model, model.preprocessing["input_size"]), mark, content.quantizes_values):
        raise _another_model(source, content.about, "what it computes: strides, activations, pools or the like")
    return model


def _own_model(own: nn.Module | Factory, about: dict, source: str) -> Captured:
    net = own if isinstance(own, nn.Module) else _made(own, source)
    preprocessing = preprocessing_of(about)
    model = capture(net, torch.zeros(1, *preprocessing["input_size"]))
    model.preprocessing = preprocessing
    model.num_classes = about["model"].get("num_classes", getattr(model, "num_classes", None))
    model.logits_at = about["model"].get("output")
    return model


def _made(factory: Factory, source: str) -> nn.Module:
    """What the caller's function makes. Raises InputError where it is none, raises itself, or makes something else."""
    name = getattr(factory, "__name__", type(factory).__name__)
    if not callable(factory):
        raise InputError(f"{source}: model is a {name}: give an nn.Module or a function that makes one")
    try:
        net = factory()
    except Exception as error:  # the caller's own
        raise InputError(f"{source}: model={name} raised {type(error).__name__}: {reason(error)}") from error
    if not isinstance(net, nn.Module):
        raise InputError(
            f"{source}: model={name} gives a {type(net).__name__}: give a function that makes an nn.Module"
        )
    return net


def _timm_model(content: Content, source: str) -> Captured:
    architecture = content.about["model"]
    if "module" in architecture:
        raise InputError(
            f"{source} holds the weights of a {architecture['module']} and not how one is made: give model=<that "
            "module, or a function that makes it> to attnround.load, factory=<package.module:function> to an entry"
        )
    if set(architecture) != ARCHITECTURE or ":" in architecture["name"] or READS_FILES & set(architecture["arguments"]):
        raise InputError(f"{source}: its model asks for other files than itself ({architecture}): refused")
    from attnround.zoo import TimmModel  # imports timm

    blueprint = TimmModel(**architecture, random_init=True)
    _check_size(blueprint, content, source)
    with torch.random.fork_rng(devices=[]):  # the weights that timm draws are overwritten
        return captured(blueprint.build())


def _check_size(blueprint: Blueprint, content: Content, source: str) -> None:
    """Raise InputError before memory is taken for a model of far more values than the file holds."""
    try:
        with torch.device("meta"):
            skeleton = blueprint.build()
    except (NotImplementedError, RuntimeError):  # a constructor that looks at values
        return
    claimed = sum(each.numel() for each in skeleton.parameters())
    held = sum(each.levels.numel() + 4 * len(each.scale) for each in content.layers)  # a norm has four values a channel
    held += sum(each.numel() for each in content.floats.values())
    if claimed > 2 * held:
        raise InputError(f"{source} holds {held} values for a model that asks for {claimed}: refused")


def _cap(model: Captured, content: Content, source: str) -> None:
    """Make room for the caps of the file, which are filled in with all that stays float."""
    names = content.about.get("caps", [])
    try:
        cap_channels(model, names)
    except LookupError as error:
        raise _another_model(source, content.about, f"the ReLU6 behind {reason(error)}") from error


def _swap(model: nn.Module, stored: StoredLayer, source: str, about: dict) -> None:
    layer = dict(model.named_modules()).get(stored.name)
    if type(layer) not in QUANTIZABLE or layer.weight.shape != stored.levels.shape:
        raise _another_model(source, about, stored.name)
    quantized = QuantizedLayer(layer, stored.grid, stored.scale, stored.zero_point)
    quantized.bake(stored.levels, stored.bias)
    quantized.activation = stored.activation
    model.set_submodule(stored.name, quantized)


def _shape(state: dict[str, Tensor], key: str) -> torch.Size | None:
    return state[key].shape if key in state else None


def _another_model(source: str, about: dict, what: str) -> InputError:
    if "module" in about["model"]:
        return InputError(f"{source} is of {about['model']['module']}, and the model given differs in {what}")
    return InputError(
        f"{source} was saved with timm {about['versions']['timm']}; timm {version('timm')} builds "
        f"{about['model']['name']} otherwise ({what}): install that version"
    )


def fingerprint(model: nn.Module) -> str:
    """sha256 of all that a quantized model computes with, bit for bit: weights, biases, ranges, what stays float."""
    return state_digest(model.state_dict())


LOADERS: dict[str, Callable[[Path, Factory | None], nn.Module]] = {  # suffix -> what opens such a file
    ".safetensors": load,
    ".onnx": lambda path, own: load_onnx(path),
    ".pt2": lambda path, own: load_program(path),
    ".xml": lambda path, own: load_ir(path),
}


def open_model(path: str, own: Factory | None = None) -> nn.Module:
    """The model of an exported file, by its suffix: images [N, C, H, W] -> logits, `preprocessing`, `num_classes`.

    own: makes the float module of a .safetensors file that is of the caller's own one.

    Raises InputError where no loader takes it, and as the loaders do.
    """
    loader = LOADERS.get(Path(path).suffix)
    if loader is None:
        raise InputError(
            f"checkpoint={path} is not of a kind that is evaluated: give one of {', '.join(LOADERS)}; a .pt or .pth "
            "file is a pickle, which may run code when it is loaded, and is refused"
        )
    return loader(Path(path), own)
