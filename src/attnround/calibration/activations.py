"""Calibrate the quantizers of the layers' inputs: one pass of the images through the float model."""

from functools import partial

import torch
from torch import Tensor, nn

from attnround.calibration.cache import in_batches
from attnround.errors import InputError
from attnround.graph import Captured, find_layers
from attnround.progress import bar
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.histogram import Histogram
from attnround.quantization.ranges import RangeSearch


@torch.no_grad()
def calibrate_activations(
    model: Captured, images: Tensor, search: RangeSearch, batch_size: int, device: torch.device | str = "cpu"
) -> dict[str, ActivationQuantizer]:
    """Layer name -> the quantizer of its input, in execution order, on the CPU.

    model: the float model, on the CPU; images: [N, C, H, W]. Ranges are those of the float model's activations: one
    pass of the images serves all layers, and every rounding method starts from the same ranges.
    Raises InputError that names the layer whose input is not finite.
    """
    bit_widths = search.bit_widths(list(find_layers(model)))
    histograms = {name: Histogram() for name in bit_widths}
    if not histograms:
        return {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(partial(_count, name, histogram), with_kwargs=True)
        for name, histogram in histograms.items()
    ]
    batches = in_batches(images, batch_size)
    progress = bar(len(batches), "activation ranges", "batch")
    try:
        model.to(device)
        for batch in batches:
            model(batch.to(device))
            progress.update()
    finally:
        model.to("cpu")
        progress.close()
        for hook in hooks:
            hook.remove()
    return {name: search.quantizer(histogram, bit_widths[name]) for name, histogram in histograms.items()}


def _count(name: str, histogram: Histogram, layer: nn.Module, args: tuple, kwargs: dict) -> None:
    try:
        histogram.update(args[0] if args else kwargs["input"])
    except ValueError as error:
        raise InputError(f"{name}: its inputs hold NaN or infinity; the checkpoint or an image is broken") from error


def attach_activations(student: Captured, quantizers: dict[str, ActivationQuantizer]) -> None:
    """Give these quantized layers of the student their input's quantizer."""
    for name, quantizer in quantizers.items():
        student.get_submodule(name).activation = quantizer


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
