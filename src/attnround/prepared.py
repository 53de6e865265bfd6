"""A float model made ready to be quantized, and its way to a student: ranges of inputs, bits, scales."""

import copy
import dataclasses
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from attnround.bits import Allocation, Allocator, Auto, Layer, Problem
from attnround.calibration import attach_activations, calibrate_activations
from attnround.calibration.output_metric import OutputMetric, measure
from attnround.data.images import NUM_IMAGES, check_shape, gather_images
from attnround.errors import InputError, listed
from attnround.evaluation import agreement, logits, outputs
from attnround.graph import (
    Captured,
    CrossLayer,
    Equalization,
    LayerNorms,
    NoEqualization,
    Output,
    capture,
    captured,
    channels_last,
    find_layers,
    fold_batch_norms,
    logits_in,
    norms_to_fold,
    swap_layers,
    unwrapped,
    with_edges,
)
from attnround.machine import as_usual, memory_kept
from attnround.problem import bit_problem
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import SYMMETRIC, RangeSearch
from attnround.reconstruction import Reconstruction
from attnround.zoo import Blueprint

log = logging.getLogger(__name__)
NO_EQUALIZATION = NoEqualization()
# What the words stand for: the command line's options of the same names, as they are by default.
EQUALIZATIONS: dict[str, Equalization] = {
    "none": NO_EQUALIZATION, "cross_layer": CrossLayer(), "layer_norm": LayerNorms(),
}  # fmt: skip
BYTE_RANGE = 50  # no normalised image reaches this, one of 0 to 255 does


def device_named(name: str) -> torch.device:
    """What computes, by the word for it. Raises InputError for another word, or where there is no GPU."""
    if name not in ("cpu", "gpu", "cuda"):
        raise InputError(f"device={name!r}: give cpu or gpu")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(f"device={name!r}: torch finds no CUDA device here; device='cpu' runs anywhere")
    return torch.device("cuda", torch.cuda.current_device())


class Prepared:
    """A float model captured and folded, with its calibration images [N, C, H, W]: for `quantize` again and again.

    teacher: the folded model, on the CPU; unfolded: layer name -> its weight before that; norms: layer name -> the
    batch norm that was folded into it; folded, left: names of the batch norms that were folded, and that stay;
    equalized: what equalization did to the folded model, in a line, None where none was asked for; architecture: what a
    saved file says builds the model. The model that came in is left as it is. Arguments as of `quantize`.

    What one setting measured of the float model (ranges of inputs, sensitivities, outputs) serves the next.
    """

    @as_usual()
    def __init__(
        self,
        model: nn.Module | Blueprint,
        images: object,
        *,
        num_images: int = NUM_IMAGES,
        images_of: Callable[[object], Tensor] | None = None,
        output: Output = None,
        equalization: str | Equalization = "none",
    ):
        equalization = _equalization(equalization)
        images = gather_images(images, num_images, images_of)
        shape = list(images.shape[1:])
        if not isinstance(model, nn.Module) and isinstance(model, Blueprint):
            teacher = captured(model.build())
            architecture = model.architecture(teacher)
            check_shape(images, teacher.preprocessing["input_size"])
        elif isinstance(model, nn.Module):
            model = unwrapped(model)
            if any(isinstance(module, QuantizedLayer) for module in model.modules()):
                raise InputError(f"{type(model).__name__} is quantized already: give the float model")
            _warn_of_images(model, images)
            teacher = capture(model, images[:1])
            architecture = {"module": f"{type(model).__module__}.{type(model).__qualname__}", "input_size": shape}
            if isinstance(output, str | int):  # a function is not kept
                architecture["output"] = output
            teacher.preprocessing = {"input_size": shape}
        else:
            raise InputError(f"model is a {type(model).__name__}: give an nn.Module")
        teacher.logits_at = output
        if output is not None:
            with torch.no_grad():
                logits_in(teacher(images[:1]), output)  # what is not there is said before the work
        self._fold(teacher, images, architecture, equalization)
        if self.equalized is not None:
            teacher.remarks = [*teacher.remarks, f"equalization: {self.equalized}"]

    @classmethod
    def of_captured(
        cls,
        teacher: Captured,
        images: Tensor,
        architecture: dict[str, object],
        equalization: Equalization = NO_EQUALIZATION,
    ) -> "Prepared":
        """From a model that is captured already and not folded yet, which it becomes; and equalized."""
        prepared = cls.__new__(cls)
        prepared._fold(teacher, images, architecture, equalization)
        return prepared

    def _fold(
        self,
        teacher: Captured,
        images: Tensor,
        architecture: dict[str, object],
        equalization: Equalization,
    ) -> None:
        self.teacher, self.architecture = teacher, architecture
        self._images, self._version = images, images._version
        self.unfolded = {name: weight.clone() for name, weight in find_layers(teacher).items()}
        self.norms = norms_to_fold(teacher)
        self.folded, self.left = fold_batch_norms(teacher)
        held = teacher.state_dict().items()
        broken = [name for name, value in held if value.is_floating_point() and value.isnan().any()]
        if broken:
            raise InputError(f"NaN in {listed(broken)}: use an intact checkpoint")
        self.equalized = equalization.equalize(teacher, self.norms, images)
        channels_last(teacher)
        self._measured: dict[tuple, Any] = {}

    @property
    def images(self) -> Tensor:
        """The calibration images [N, C, H, W]. Raises InputError where the caller has changed them in place since."""
        if self._images._version != self._version:
            raise InputError("the calibration images were changed in place since they were given: give a copy of them")
        return self._images

    def __getstate__(self) -> dict[str, Any]:
        """Without what was measured, which holds functions: so that it goes to another process."""
        return self.__dict__ | {"_measured": {}, "_images": self.images}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_version": state["_images"]._version}

    @cached_property
    def logits(self) -> Tensor:
        """The float model's class logits [N, classes] on the calibration images."""
        return logits(self.teacher, self.images)

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        """All that the float model gives for the calibration images."""
        return outputs(self.teacher, self.images)

    def activations(
        self, search: RangeSearch, batch_size: int, device: torch.device | str
    ) -> dict[str, ActivationQuantizer]:
        """Layer name -> a new quantizer of its input; edge -> that of its value."""
        key = ("activations", type(search), repr(search), batch_size, str(device))
        if key not in self._measured:
            placed = with_edges(self.teacher, search.placement, search.attention)
            self._measured[key] = calibrate_activations(placed, self.images, search, batch_size, device)
        return copy.deepcopy(self._measured[key])

    def output_metrics(self, metric: OutputMetric | None, seed: int, device: torch.device | str) -> dict[str, Tensor]:
        """Layer name -> the metric of its output, as found on the device; none where none is asked for."""
        key = ("output metrics", metric, seed)
        if metric is not None and key not in self._measured:
            try:
                images = self.images[: metric.num_images].to(device)
                found = measure(metric, self.teacher.to(device), images, seed)
                self._measured[key] = {name: each.cpu() for name, each in found.items()}
            finally:
                self.teacher.cpu()
        return self._measured.get(key, {})

    def problem(
        self, observer: ClipSearch, input_bits: dict[str, int], seed: int, device: torch.device | str = "cpu"
    ) -> Problem:
        """What an allocator may ask of the float model; its answers are computed when they are first asked."""
        key = ("problem", type(observer), repr(observer), tuple(input_bits.items()), seed)
        if key not in self._measured:
            self._measured[key] = bit_problem(
                self.teacher, self.images, observer, input_bits, self.unfolded, seed,
                lambda kind: self.output_metrics(OutputMetric(kind), seed, device),
            )  # fmt: skip
        return self._measured[key]


def _equalization(given: object) -> Equalization:
    if isinstance(given, Equalization):
        return given
    if isinstance(given, str) and given in EQUALIZATIONS:
        return EQUALIZATIONS[given]
    raise InputError(f"equalization={given!r}: give none, cross_layer or layer_norm, or an object")


def _warn_of_images(model: nn.Module, images: Tensor) -> None:
    """Warn of images that are not as a model with timm's `pretrained_cfg` takes them, or as hardly any model does."""
    settings = getattr(model, "pretrained_cfg", None) or {}
    size, shape = list(settings.get("input_size") or []), list(images.shape[1:])
    if size and size != shape:
        warnings.warn(f"images are {shape}, the model was trained on {size}", stacklevel=4)
    largest, least = images.max().item(), images.min().item()
    if largest > BYTE_RANGE:
        warnings.warn(f"images reach {largest:.0f}: give them normalised as the model takes them", stacklevel=4)
    elif settings.get("mean") and least >= 0 and largest <= 1 and min(settings["mean"]) > 0:
        warnings.warn(
            f"images lie in 0..1 and the model was trained on images less {settings['mean']} over {settings['std']}: "
            "normalise them",
            stacklevel=4,
        )


@dataclass(frozen=True)
class Start:
    """A student rounded to nearest, and how it came to its bits.

    activations: layer name -> the quantizer of its input, edge -> that of its value; allocation_s, scales_s: seconds
    for the bits, and for the scales of weights and inputs.
    """

    student: Captured
    layers: list[Layer]
    allocation: Allocation
    activations: dict[str, ActivationQuantizer]
    allocation_s: float
    scales_s: float

    @property
    def mean_bits(self) -> float:
        return self.allocation.mean_bits(self.layers)


@memory_kept()
def start(
    prepared: Prepared,
    bits: Allocator,
    activation: RangeSearch,
    reconstruction: Reconstruction,
    *,
    device: torch.device | str,
    seed: int,
) -> Start:
    """Find the scales of the inputs, the bits of the weights and their scales."""
    clock = time.perf_counter()
    activations, input_bits = _of_inputs(prepared, activation, reconstruction, device)
    ranges_s = time.perf_counter() - clock
    clock = time.perf_counter()
    problem = prepared.problem(reconstruction.observer, input_bits, seed, device)
    allocation = bits.allocate(problem)
    allocation_s = time.perf_counter() - clock
    clock = time.perf_counter()
    placed = with_edges(prepared.teacher, activation.placement, activation.attention)
    student = swap_layers(placed, allocation.bit_width, reconstruction.observer)
    attach_activations(student, copy.deepcopy(activations))
    scales_s = ranges_s + time.perf_counter() - clock
    return Start(student, list(problem.layers), allocation, activations, allocation_s, scales_s)


def start_at_smallest(
    prepared: Prepared,
    auto: Auto,
    activation: RangeSearch,
    reconstruction: Reconstruction,
    *,
    device: torch.device | str,
    seed: int,
    rounded: Callable[[Captured], object],
    known: Sequence[dict[str, float]] = (),
    tried: Callable[[Sequence[dict[str, float]]], None] = lambda trials: None,
) -> Start:
    """`start` at the smallest budget whose quantized model still agrees with the float one.

    Whole quantizations are tried, budget by budget; their time is that of the allocation. rounded: rounds a student in
    place, as it will be; known: the trials that a run which was killed had made; tried: is given all after each.
    """
    begun = time.perf_counter()
    trials = list(known)
    agreements: dict[tuple[int, ...], float] = {}  # of the bits of all layers: near budgets may buy the same
    shape = list(prepared.logits.shape)
    if len(shape) < 2 or shape[1] < 2:
        raise InputError(f"bits=auto looks at which class is the largest, and the model gives {shape}: give a budget")

    def at(budget: float) -> Start:
        return start(prepared, auto.at(budget), activation, reconstruction, device=device, seed=seed)

    def agreement_at(budget: float) -> float:
        for trial in known:
            if trial["budget"] == budget:
                return trial["agreement"]
        found = at(budget)
        bits = tuple(found.allocation.bit_width.values())
        if bits not in agreements:
            rounded(found.student)
            agreements[bits] = agreement(prepared.logits, logits(found.student, prepared.images))
        percent = agreements[bits]
        trials.append({"budget": budget, "mean_bits": found.mean_bits, "agreement": percent})
        tried(trials)
        log.info("%-12s auto: %.3g %s agree to %.2f %%", "bits", budget, auto.unit, percent)
        return percent

    _, input_bits = _of_inputs(prepared, activation, reconstruction, device)
    budget = auto.smallest(agreement_at, prepared.problem(reconstruction.observer, input_bits, seed, device))
    tried_s = time.perf_counter() - begun
    best = at(budget)
    allocation = dataclasses.replace(best.allocation, trials=trials)
    return dataclasses.replace(best, allocation=allocation, allocation_s=tried_s + best.allocation_s)


def _of_inputs(
    prepared: Prepared, activation: RangeSearch, reconstruction: Reconstruction, device: torch.device | str
) -> tuple[dict[str, ActivationQuantizer], dict[str, int]]:
    """Layer or edge -> the quantizer of its input, and that one's bits.

    Raises InputError where the runtime that values are placed for has no zero points and weights are to have some.
    """
    if activation.placement in SYMMETRIC and not reconstruction.observer.symmetric:
        raise InputError(
            f"activation.placement={activation.placement}: this runtime has no zero points, of weights neither: give "
            "reconstruction.observer.symmetric=true"
        )
    found = prepared.activations(activation, reconstruction.batch_size, device)
    return found, {name: each.bit_width for name, each in found.items()}
