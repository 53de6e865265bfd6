"""Calibrate the quantizers of layers' inputs and of values between layers, in one pass through the float model."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from attnround.errors import InputError
from attnround.graph import Captured, find_edges, find_layers, has_integer_bias, in_batches, sources
from attnround.progress import bar
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.grid import quantize
from attnround.quantization.histogram import Histogram
from attnround.quantization.layers import quantized_layers
from attnround.quantization.ranges import RangeSearch
from attnround.ranks import gathered, is_own

EDGE_BITS = 8  # where a runtime wants them; none has narrower ones between layers


@torch.no_grad()
def calibrate_activations(
    model: Captured, images: Tensor, search: RangeSearch, batch_size: int, device: torch.device | str = "cpu"
) -> dict[str, ActivationQuantizer]:
    """Layer name -> the quantizer of its input, in execution order, then edge -> that of its value; on the CPU.

    model: the float model, on the CPU, with edges where the search places more quantizers; images: [N, C, H, W]. Ranges
    are those of the float model's activations: one pass of the images serves all layers, and every rounding method
    starts from the same ranges. What takes an edge's values at its bits has its quantizer, the object itself, and so
    have all edges that one layer takes: of two quantizers in a row with other scales onnxruntime takes one away.
    Raises InputError that names the layer whose input is not finite.
    """
    edges = find_edges(model).items()
    bit_widths = search.bit_widths(list(find_layers(model)), [name for name, edge in edges if edge.of_product])
    if bit_widths:
        bit_widths |= {name: EDGE_BITS for name, edge in edges if not edge.of_product}
    taken = {
        name: edges
        for name, edges in sources(model).items()
        if name in bit_widths and all(bit_widths[name] == bit_widths.get(edge) for edge in edges)
    }
    shared = _sharing(taken, bit_widths)
    histograms = {shared[name]: Histogram() for name in bit_widths}
    if not histograms:
        return {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            partial(_count, name, histograms[shared[name]]), with_kwargs=True
        )
        for name in bit_widths
        if name not in taken
    ]
    batches = in_batches(images, batch_size)
    progress = bar(len(batches), "activation ranges", "batch")
    try:
        model.to(device)
        for i, batch in enumerate(batches):
            if is_own(i):
                model(batch.to(device))
            progress.update()
    finally:
        model.to("cpu")
        progress.close()
        for hook in hooks:
            hook.remove()
    histograms = united(histograms)
    found = {name: search.quantizer(histogram, bit_widths[name]) for name, histogram in histograms.items()}
    for name in find_edges(model):
        if name in found:
            _keep_within(found[name], histograms[name])
    return {name: found[shared[name]] for name in bit_widths}


def _sharing(taken: dict[str, set[str]], names: Iterable[str]) -> dict[str, str]:
    """Each of these layers and edges -> that whose quantizer it has: an edge, or itself where no other shares it.

    taken: layer or edge -> the edges whose values it takes.
    """
    groups = {name: [name] for name in names}
    for name, edges in taken.items():
        joined = list(dict.fromkeys(each for one in (*sorted(edges), name) for each in groups[one]))
        groups |= dict.fromkeys(joined, joined)
    return {name: group[0] for name, group in groups.items()}


def united(histograms: dict[str, Histogram]) -> dict[str, Histogram]:
    """Of all processes that have a part of the batches."""
    first, *others = gathered(histograms)
    for other in others:
        for name, histogram in first.items():
            histogram.add(other[name])
    return first


def _keep_within(quantizer: ActivationQuantizer, histogram: Histogram) -> None:
    """Let an edge's range not reach beyond all values seen: then a clip before it is a part of it, and runtimes say so.

    In float32 the largest code times the scale may round up, so that the scale stays one number below.
    """
    highest = quantizer.levels[1]
    if quantizer.zero_point == 0 and histogram.high > 0:
        limit = torch.tensor(histogram.high / highest).nextafter(torch.tensor(0.0))
        quantizer.scale.data.clamp_(max=limit)


def _count(name: str, histogram: Histogram, layer: nn.Module, args: tuple, kwargs: dict) -> None:
    try:
        histogram.update(args[0] if args else kwargs["input"])
    except ValueError as error:
        raise InputError(f"{name}: its inputs hold NaN or infinity; the checkpoint or an image is broken") from error


def attach_activations(student: Captured, quantizers: dict[str, ActivationQuantizer]) -> None:
    """Give these quantized layers and edges of the student their quantizers, and layers scales with room for the bias.

    Biases are as the runtime of the student's placement adds them, from here on.
    """
    for name, quantizer in quantizers.items():
        student.get_submodule(name).activation = quantizer
    for layer in quantized_layers(student).values():
        if layer.activation is not None:
            layer.scale.copy_(layer.with_room(layer.scale, layer.layer.bias))
            layer.rounds_bias = has_integer_bias(layer.layer, student.placement)
            layer.bake(quantize(layer.layer.weight, layer.scale, layer.zero_point, layer.grid))


def activation_columns(student: nn.Module, name: str) -> dict[str, object]:
    """The columns of layers.csv on a layer's input; none where that stays float."""
    quantizer = student.get_submodule(name).activation
    if quantizer is None:
        return {}
    return {
        "activation_bits": quantizer.bit_width,
        "activation_signed": quantizer.signed,
        "activation_scale": quantizer.scale.item(),
        "activation_zero_point": quantizer.zero_point,
    }
