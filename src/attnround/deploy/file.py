"""`quantized.safetensors`: a quantized model as integers, small as its bits say, and back again.

A safetensors file, so nothing in it can run. Its tensors, those of all layers one after another in the order of the
metadata's table of layers:

    levels                  uint8     each layer's levels packed at its bits (`packing`), in whole bytes
    scales, biases          float32   a value an output channel
    zero_points             uint8     a value an output channel, of layers with an asymmetric grid alone
    activation_scales       float32   a value a layer whose input is quantized
    activation_zero_points  uint8     likewise
    edge_scales             float32   a value for each value between layers that is quantized, if any
    edge_zero_points        uint8     likewise
    float.<name>            float32   what stays float, by its name in the model (a table of integers as it is)

The metadata's one entry, `attnround`, is what `seal` says, with layers (columns: name, shape, bits, symmetric,
activation_bits, which is null where the input stays float), and where values between layers are quantized, placement,
attention (true where what its products take is quantized), and edges (columns: name, bits). caps, where an equalized
model has some: names of the layers behind which a ReLU6 ends at a value a channel, float.caps.<layer>.result.limit.
probe: what the model gives for an image of noise (`probe`).
"""

import json
import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from attnround.deploy.packing import pack, unpack
from attnround.deploy.probe import probe
from attnround.deploy.seal import ENTRY, check_seal, describe, preprocessing_of, read_about, read_bytes, seal
from attnround.errors import InputError, reason
from attnround.files import write_atomically
from attnround.graph import Captured, find_caps
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.grid import Grid
from attnround.quantization.layers import float_state, quantized_edges, quantized_layers

GIVE = "the quantized.safetensors that a run leaves in its folder"
PICKLES = (b"PK\x03\x04", b"\x80")  # torch.save's archive, and a bare pickle


@dataclass(frozen=True)
class StoredLayer:
    """A layer as the file holds it: levels [O, *rest]; scale, zero_point, bias [O]; its input's quantizer, if any."""

    name: str
    grid: Grid
    levels: Tensor
    scale: Tensor
    zero_point: Tensor
    bias: Tensor
    activation: ActivationQuantizer | None


@dataclass(frozen=True)
class Content:
    """All of a file: its metadata, its layers, what stays float by its name in the model, and its edges' quantizers."""

    about: dict
    layers: list[StoredLayer]
    floats: dict[str, Tensor]
    edges: dict[str, ActivationQuantizer]

    @property
    def placement(self) -> str:
        """Where values are quantized."""
        return self.about.get("placement", "inputs")

    @property
    def quantizes_values(self) -> bool:
        """Whether any input of a layer, or value between layers, is quantized."""
        return bool(self.edges) or any(layer.activation is not None for layer in self.layers)


def save(model: Captured, path: Path, about: dict) -> dict[str, object]:
    """Write a quantized model, the whole file or none; return its name, bytes and sha256.

    about: `model`, what `TimmModel.architecture` gives, and what else the metadata should say. Raises OSError.
    """
    layers = quantized_layers(model)
    inputs = {name: layer.activation for name, layer in layers.items() if layer.activation is not None}
    columns = {
        "name": list(layers),
        "shape": [list(layer.levels.shape) for layer in layers.values()],
        "bits": [layer.grid.bit_width for layer in layers.values()],
        "symmetric": [layer.grid.symmetric for layer in layers.values()],
        "activation_bits": [inputs[name].bit_width if name in inputs else None for name in layers],
    }
    edges = quantized_edges(model)
    asymmetric = [layer for layer in layers.values() if not layer.grid.symmetric]
    tensors = {
        "levels": torch.cat([pack(layer.levels, layer.grid) for layer in layers.values()]),
        "scales": torch.cat([layer.scale for layer in layers.values()]),
        "biases": torch.cat([layer.layer.bias.detach() for layer in layers.values()]),
        **{f"float.{key}": value for key, value in float_state(model).items()},
    }
    if asymmetric:
        tensors["zero_points"] = torch.cat([layer.zero_point for layer in asymmetric]).to(torch.uint8)
    for what, found in (("activation", inputs), ("edge", edges)):
        if found:
            zero_points = [each.zero_point for each in found.values()]
            tensors[f"{what}_scales"] = torch.stack([each.scale.detach() for each in found.values()])
            tensors[f"{what}_zero_points"] = torch.tensor(zero_points, dtype=torch.uint8)
    if edges:
        bits = [each.bit_width for each in edges.values()]
        about = about | {"placement": model.placement, "edges": {"name": list(edges), "bits": bits}}
        about = about | ({"attention": True} if model.quantizes_attention else {})
    caps = list(find_caps(model))
    if caps:
        about = about | {"caps": caps}
    mark = probe(model, preprocessing_of(about)["input_size"])
    if mark is not None:
        about = about | {"probe": mark}
    versions = {name: version(name) for name in ("torch", "timm")}
    entry = describe({**about, "versions": versions, "layers": columns})
    raw, digest = seal(safetensors.save({key: _as_stored(value) for key, value in tensors.items()}, {ENTRY: entry}))
    write_atomically(path, raw)
    return {"file": path.name, "bytes": len(raw), "sha256": digest}


def _as_stored(value: Tensor) -> Tensor:
    value = value.float() if value.is_floating_point() else value
    return value.cpu().clone(memory_format=torch.contiguous_format)


def read(path: str | Path) -> Content:
    """All of a file. Raises InputError where it is missing, damaged, of something else, a pickle, or too new."""
    raw = read_bytes(path, GIVE)
    if raw.startswith(PICKLES) and raw[8:9] != b"{":  # the length of a header may begin with the same bytes
        raise InputError(f"{path} is a pickle, which may run code when it is loaded: give a quantized.safetensors")
    about = _about(raw, path)
    check_seal(raw, about, path)
    try:
        return _content(about, safetensors.load(raw))
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is not as format {about['format']} says: use the file that a run wrote") from error


def _about(raw: bytes, path: str | Path) -> dict:
    """The metadata, not to be trusted before the checksum is right."""
    try:
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is no whole safetensors file ({reason(error)}): it is cut short, damaged or of something else"
        ) from error
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return read_about(metadata.get(ENTRY) if isinstance(metadata, dict) else None, path, GIVE)


def _content(about: dict, tensors: dict[str, Tensor]) -> Content:
    """Cut the tensors into layers."""
    floats = {key.removeprefix("float."): value for key, value in tensors.items() if key.startswith("float.")}
    at = dict.fromkeys(tensors, 0)

    def take(key: str, count: int) -> Tensor:
        at[key] += count
        if not 0 <= count <= at[key] <= len(tensors[key]):
            raise ValueError(f"{key} is shorter than the table of layers says")
        return tensors[key][at[key] - count : at[key]]

    def quantizer(what: str, bits: int) -> ActivationQuantizer:
        return ActivationQuantizer(take(f"{what}_scales", 1).item(), int(take(f"{what}_zero_points", 1)), bits)

    layers = []
    for name, shape, bits, symmetric, activation_bits in zip(*about["layers"].values(), strict=True):
        grid, num_levels = Grid(bits, symmetric), math.prod(shape)
        levels = unpack(take("levels", (num_levels * bits + 7) // 8), shape, grid)
        scale, bias = take("scales", shape[0]), take("biases", shape[0])
        zero_point = torch.zeros_like(scale) if symmetric else take("zero_points", shape[0]).float()
        activation = None if activation_bits is None else quantizer("activation", activation_bits)
        layers.append(StoredLayer(name, grid, levels, scale, zero_point, bias, activation))
    columns = about.get("edges", {"name": [], "bits": []})
    edges = {name: quantizer("edge", bits) for name, bits in zip(columns["name"], columns["bits"], strict=True)}
    return Content(about, layers, floats, edges)
