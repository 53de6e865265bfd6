"""Quantize a model from Python: the same stages as a run of the entry, in the same order, to the same bits."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from numbers import Integral
from typing import TypeVar

from torch import Tensor, nn

from attnround.bits import Allocator, Auto, Fisher, Mixed, RateDistortion, Sensitivity, Uniform
from attnround.data.images import NUM_IMAGES
from attnround.errors import InputError, checked_seed
from attnround.graph import (
    Captured,
    Equalization,
    Output,
)
from attnround.machine import as_usual
from attnround.prepared import Prepared, device_named, start, start_at_smallest
from attnround.progress import silent
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import Float, Mse, RangeSearch
from attnround.quantization.rounding import (
    GPTQ,
    AdaRound,
    AttentionRound,
    CoordinateDescent,
    FlexRound,
    Nearest,
    RoundingMethod,
    Stochastic,
)
from attnround.quantized import Quantized, Report, unit_rows
from attnround.reconstruction import (
    BlockReconstruction,
    LayerReconstruction,
    Reconstruction,
    UnitReport,
    reconstruct,
)
from attnround.zoo import Blueprint

T = TypeVar("T")
ENDS = {"first": 8, "last": 8}  # bits of the first and the last layer where all others have the same, and of inputs
WEIGHTED = ClipSearch(input_weighted=True)
LAYER = partial(LayerReconstruction, observer=WEIGHTED, burst=20)
BLOCK = partial(BlockReconstruction, observer=ClipSearch(), num_steps=500, lr_scale=0.5, burst=50)
# What the words stand for: the command line's options of the same names, as they are by default.
ROUNDINGS: dict[str, Callable[[], RoundingMethod]] = {
    "nearest": Nearest,
    "nearest_calibrated": partial(Nearest, calibrated=True),
    "stochastic": Stochastic,
    "gptq": GPTQ,
    "coordinate_descent": CoordinateDescent,
    "adaround": AdaRound,
    "flexround": FlexRound,
    "attention_round": AttentionRound,
}
ALLOCATORS: dict[str, Callable[[], Allocator]] = {
    name: partial(kind, budget=4.0)
    for name, kind in {
        "mixed": Mixed,
        "fisher": Fisher,
        "sensitivity": Sensitivity,
        "rate_distortion": RateDistortion,
    }.items()
}
RECONSTRUCTIONS: dict[str, Callable[[], Reconstruction]] = {
    "layer": LAYER,
    "block": BLOCK,
    "layer_then_block": lambda: BLOCK(layer_first=LAYER()),
}


@as_usual()
def quantize(
    model: nn.Module | Blueprint | Prepared,
    images: object = None,
    *,
    bits: int | str | Allocator | Auto = 4,
    rounding: str | RoundingMethod = "attention_round",
    activation: int | RangeSearch | None = None,
    placement: str = "inputs",
    attention: bool = False,
    reconstruction: str | Reconstruction = "layer",
    num_images: int | None = None,
    images_of: Callable[[object], Tensor] | None = None,
    output: Output = None,
    equalization: str | Equalization = "none",
    device: str = "cpu",
    seed: int = 0,
    progress: bool = True,
) -> Quantized:
    """Quantize the weights of a model, and its layers' inputs where asked, from unlabelled images.

    model: any nn.Module that torch.export captures, which stays as it is, or one that is `Prepared`; images: a tensor
    [N, C, H, W], Dataset, DataLoader or iterable of batches, normalised as the model takes them; num_images: how many
    of them are looked at, the first, 1,024 where it is None; images_of: takes the images out of a batch of another
    form; output: the key or index of the logits in what the model gives, or a function that takes them out, where
    classes are asked for and it gives several tensors; bits: of every weight but the first and last layer's 8, or
    "mixed" (4 mean bits by coding length), "fisher", "sensitivity", or an allocator of attnround.bits; rounding: a name
    such as "gptq", "adaround", "nearest", or an object of attnround.quantization.rounding; activation: bits of the
    layers' inputs, None leaves them float; placement: where activations are quantized: at the layers' `inputs`, or as
    onnxruntime, tensorrt or openvino wants; attention: whether the queries, keys, probabilities and values that its
    products take are quantized too; equalization: "cross_layer" first scales channels between layers to even
    ranges, "layer_norm" those of LayerNorms, which changes no output of the model; reconstruction: "layer", "block" or
    "layer_then_block"; device: what computes, "cpu" or "gpu"; progress: False shows no bar.

    Raises InputError for what cannot be handled, in one line.
    """
    if isinstance(model, Prepared):
        if images is not None:
            raise InputError("a prepared model brings its images: leave images out")
        if equalization != "none":
            raise InputError(f"equalization={equalization!r}: a prepared model is equalized or not: tell Prepared")
        for name, given in (("num_images", num_images), ("images_of", images_of), ("output", output)):
            if given is not None:
                raise InputError(f"{name} of a prepared model is what it was prepared with: tell Prepared")
    if isinstance(bits, Integral) and not isinstance(bits, bool):
        bits = Uniform(bit_width=int(bits), pinned=ENDS)
    if isinstance(activation, Integral) and not isinstance(activation, bool):
        activation = Mse(int(activation), pinned=ENDS, placement=placement, attention=attention)
    elif placement != "inputs":
        raise InputError(f"placement={placement!r}: give activation=<bits>, or a search with its own placement")
    elif attention:
        raise InputError("attention=True: give activation=<bits>, or a search with attention=True")
    allocator = bits if isinstance(bits, Auto) else _chosen("bits", bits, ALLOCATORS, Allocator)
    method = _chosen("rounding", rounding, ROUNDINGS, RoundingMethod)
    search = _chosen("activation", Float() if activation is None else activation, {}, RangeSearch)
    settings = _chosen("reconstruction", reconstruction, RECONSTRUCTIONS, Reconstruction)
    on, seed = device_named(device), checked_seed(seed)

    def rounded(student: Captured) -> list[UnitReport]:
        metrics = {} if method.data_free else prepared.output_metrics(settings.metric, seed, on)
        return reconstruct(
            prepared.teacher, student, prepared.images, method, settings, device=on, seed=seed, metrics=metrics
        )

    with silent(not progress):
        prepared = (
            model
            if isinstance(model, Prepared)
            else Prepared(
                model, images, num_images=NUM_IMAGES if num_images is None else num_images, images_of=images_of,
                output=output, equalization=equalization,
            )
        )  # fmt: skip
        if isinstance(allocator, Auto):
            found = start_at_smallest(prepared, allocator, search, settings, device=on, seed=seed, rounded=rounded)
        else:
            found = start(prepared, allocator, search, settings, device=on, seed=seed)
        reports = rounded(found.student)
    student = found.student.eval()
    report = Report(unit_rows(reports, [layer.name for layer in found.layers]), prepared, student)
    name = rounding if isinstance(rounding, str) else type(method).__name__
    return Quantized(student, report, found.allocation, name, prepared)


def _chosen(argument: str, given: object, words: dict[str, Callable[[], T]], kind: type[T]) -> T:
    if isinstance(given, kind):
        return given
    if isinstance(given, str) and given in words:
        return words[given]()
    number = ["a number of bits"] if argument in ("bits", "activation") else []
    near = get_close_matches(str(given), words, n=3, cutoff=0.4) or [*number, *words]
    raise InputError(f"{argument}={given!r}: give {', '.join(near)}, or an object")
