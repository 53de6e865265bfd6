"""Quantize a model from Python: the same stages as a run of the entry, in the same order, to the same bits."""

import copy
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from attnround.bits import Allocation, Allocator, Fisher, Layer, Mixed, RateDistortion, Sensitivity, Uniform
from attnround.data.images import gather_images
from attnround.deploy import prove, read, save
from attnround.deploy.comparison import compare
from attnround.deploy.file import Content
from attnround.deploy.program import exported_program, open_program, sealed_program
from attnround.deploy.proof import Proof
from attnround.deploy.qdq import float_graph, quantized_graph, wanted_opset
from attnround.deploy.runtime import need_onnx, newest_opset, open_onnx, sealed_onnx
from attnround.errors import InputError
from attnround.evaluation import agreement, logit_sqnr_db, logits
from attnround.graph import (
    Captured,
    capture,
    captured,
    fold_batch_norms,
    layer_weights,
    left_float,
    normed_layers,
    swap_layers,
    unwrapped,
)
from attnround.models import TimmModel
from attnround.progress import silent
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import Float, Mse, RangeSearch
from attnround.quantization.rounding import (
    GPTQ,
    AdaRound,
    AttentionRound,
    CoordinateDescent,
    FlexRound,
    Nearest,
    Quantizer,
    Stochastic,
)
from attnround.reconstruction import (
    BlockReconstruction,
    LayerReconstruction,
    Reconstruction,
    UnitReport,
    attach_activations,
    bit_problem,
    calibrate_activations,
    reconstruct,
)
from attnround.results.record import write_atomically
from attnround.results.table import plain, text_table

T = TypeVar("T")
ENDS = {"first": 8, "last": 8}  # bits of the first and the last layer, and of their inputs
NUM_IMAGES = 1024
WEIGHTED = ClipSearch(input_weighted=True)
LAYER = partial(LayerReconstruction, observer=WEIGHTED, burst=20)
BLOCK = partial(BlockReconstruction, observer=ClipSearch(), num_steps=500, lr_scale=0.5, burst=50)
# What the words stand for: the command line's options of the same names, as they are by default.
ROUNDINGS: dict[str, Callable[[], Quantizer]] = {
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
    name: partial(kind, budget=4.0, pinned=ENDS)
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


class Prepared:
    """A float model captured and folded, with its calibration images [N, C, H, W]: for `quantize` again and again.

    teacher: the folded model, on the CPU; normed: names of the layers that batch norms went to; unfolded: layer name ->
    its weight before that. The model that came in is left as it is.
    """

    def __init__(
        self,
        model: nn.Module | TimmModel,
        images: object,
        *,
        num_images: int = NUM_IMAGES,
        images_of: Callable[[object], Tensor] | None = None,
    ):
        self.images = gather_images(images, num_images, images_of)
        shape = list(self.images.shape[1:])
        if isinstance(model, TimmModel):
            self.teacher = captured(model.build())
            self.architecture = model.architecture(self.teacher)
            wanted = list(self.teacher.preprocessing["input_size"])
            if wanted != shape:
                raise InputError(f"images are {shape}, the model takes {wanted}: resize them")
        elif isinstance(model, nn.Module):
            model = unwrapped(model)
            if any(isinstance(module, QuantizedLayer) for module in model.modules()):
                raise InputError(f"{type(model).__name__} is quantized already: give the float model")
            self.teacher = capture(model, self.images[:1])
            self.architecture = {"module": f"{type(model).__module__}.{type(model).__qualname__}", "input_size": shape}
            self.teacher.preprocessing = {"input_size": shape}
        else:
            raise InputError(f"model is a {type(model).__name__}: give an nn.Module")
        self.unfolded = layer_weights(self.teacher)
        self.normed = normed_layers(self.teacher)
        fold_batch_norms(self.teacher)


@dataclass(frozen=True)
class Start:
    """A student rounded to nearest, and how it came to its bits.

    activations: layer name -> the quantizer of its input; allocation_s, scales_s: seconds for the bits, and for the
    scales of weights and inputs.
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


def start(
    teacher: Captured,
    images: Tensor,
    unfolded: dict[str, Tensor],
    bits: Allocator,
    activation: RangeSearch,
    reconstruction: Reconstruction,
    device: torch.device | str,
    seed: int,
    rounded: Callable[[Captured], object],
) -> Start:
    """Find the scales of the inputs, the bits of the weights and their scales.

    rounded: rounds a student in place as it will be, for allocators that try what they allocate.
    """
    clock = time.perf_counter()
    activations = calibrate_activations(teacher, images, activation, reconstruction.batch_size, device)
    input_bits = {name: each.bit_width for name, each in activations.items()}
    scales_s = time.perf_counter() - clock

    def student_of(allocation: Allocation) -> Captured:
        student = swap_layers(teacher, allocation.bit_width, reconstruction.observer)
        attach_activations(student, copy.deepcopy(activations))
        return student

    reference = cache(lambda: logits(teacher, images))

    def agreement_of(allocation: Allocation) -> float:
        student = student_of(allocation)
        rounded(student)
        return agreement(reference(), logits(student, images))

    clock = time.perf_counter()
    problem = bit_problem(teacher, images, reconstruction.observer, input_bits, unfolded, seed)
    allocation = bits.allocate(dataclasses.replace(problem, agreement=agreement_of))
    allocation_s = time.perf_counter() - clock
    clock = time.perf_counter()
    student = student_of(allocation)
    scales_s += time.perf_counter() - clock
    return Start(student, list(problem.layers), allocation, activations, allocation_s, scales_s)


class Report(list):
    """A row a layer: dictionaries of its bits, its SQNR in dB before and after, what moved. Prints as a table."""

    SHOWN = ("name", "kind", "shape", "bits", "weight_sqnr_db", "start_sqnr_db", "output_sqnr_db", "kept")

    def __init__(self, rows: Iterable[dict[str, object]], stays_float: list[str], images_sqnr_db: float):
        super().__init__(rows)
        self.left_float, self.sqnr_db = stays_float, images_sqnr_db

    def __str__(self) -> str:
        rows = [[_shown(row[key]) for key in self.SHOWN] for row in self]
        kept = f"stays float: {', '.join(self.left_float)}" if self.left_float else "nothing else has weights"
        return f"{text_table(self.SHOWN, rows)}\n{kept}\nlogits on the calibration images: {self.sqnr_db:.2f} dB"

    def dataframe(self) -> object:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(list(self))


def _shown(value: object) -> object:
    return f"{value:.2f}" if isinstance(value, float) else plain(value)


@dataclass
class Quantized:
    """A quantized model. model: the simulation, an nn.Module; report: a row a layer; images: it was calibrated on."""

    model: Captured
    report: Report
    allocation: Allocation
    architecture: dict[str, object]
    method: str
    images: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)

    def save(self, path: str | Path) -> dict[str, object]:
        """Write the model as integers, a .safetensors file; return its name, bytes and sha256. Raises OSError."""
        return save(self.model, Path(path), self._about())

    def export(self, path: str | Path) -> float:
        """Write an .onnx or .pt2 file; return its agreement with the simulation on the calibration images in percent.

        Raises InputError where the file does not compute what the simulation does, and nothing is written.
        """
        path = Path(path)
        content = self._content()
        about = {key: value for key, value in content.about.items() if key not in ("format", "sha256", "layers")}
        about["versions"] |= {"torch": torch.__version__}
        if path.suffix == ".onnx":
            need_onnx(str(path))
            opset = min(wanted_opset(content.layers), newest_opset())
            raw, _ = sealed_onnx(quantized_graph(float_graph(self.model, opset), content.layers, opset), about)
            exported = open_onnx(raw, path)
        elif path.suffix == ".pt2":
            raw, _ = sealed_program(exported_program(self.model), about)
            exported = open_program(raw, path)
        else:
            raise InputError(f"{path} is of no kind that is exported: give a name that ends in .onnx or .pt2")
        (found,) = compare(self.model, [exported], _labelled(self.images))
        fault = found.fault(any(layer.activation is not None for layer in content.layers))
        if fault:
            raise InputError(f"{path} is not written: {fault}")
        write_atomically(path, raw)
        return found.agreement

    def verify(self, images: object | None = None, *, batch_size: int = 50) -> Proof:
        """Compare the simulation with exact integer arithmetic, layer by layer, on images as `quantize` takes them."""
        shown = self.images if images is None else gather_images(images, NUM_IMAGES)
        content = self._content()
        return prove(self.model, content.layers, _labelled(shown), batch_size)

    def _content(self) -> Content:
        """The model as its file holds it."""
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder) / "it.safetensors")
            return read(Path(folder) / "it.safetensors")

    def _about(self) -> dict[str, object]:
        return {"model": self.architecture, "data": "the caller's", "method": self.method}


def _labelled(images: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of images with a label that none has: agreement asks for none."""
    return ((batch, torch.full((len(batch),), -1)) for batch in images.split(64))


def quantize(
    model: nn.Module | TimmModel | Prepared,
    images: object = None,
    *,
    bits: int | str | Allocator = 4,
    rounding: str | Quantizer = "attention_round",
    activation: int | RangeSearch | None = None,
    reconstruction: str | Reconstruction = "layer",
    num_images: int = NUM_IMAGES,
    images_of: Callable[[object], Tensor] | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: bool = True,
) -> Quantized:
    """Quantize the weights of a model, and its layers' inputs where asked, from unlabelled images.

    model: any nn.Module that torch.export captures, which stays as it is, or one that is `Prepared`; images: a tensor
    [N, C, H, W], Dataset, DataLoader or iterable of batches, normalised as the model takes them, of which the first
    `num_images` are looked at; images_of: takes the images out of a batch of another form; bits: of every weight but
    the first and last layer's 8, or "mixed" (4 mean bits by coding length), "fisher", "sensitivity", or an allocator of
    attnround.bits; rounding: a name such as "gptq", "adaround", "nearest", or an object of
    attnround.quantization.rounding; activation: bits of the layers' inputs, None leaves them float; reconstruction:
    "layer", "block" or "layer_then_block"; device: what computes, "cpu" or "gpu"; progress: False shows no bar.

    Raises InputError for what cannot be handled, in one line.
    """
    if isinstance(model, Prepared) and images is not None:
        raise InputError("a prepared model brings its images: leave images out")
    if isinstance(bits, int) and not isinstance(bits, bool):
        bits = Uniform(bit_width=bits, pinned=ENDS)
    if isinstance(activation, int) and not isinstance(activation, bool):
        activation = Mse(activation, pinned=ENDS)
    allocator = _chosen("bits", bits, ALLOCATORS, Allocator)
    method = _chosen("rounding", rounding, ROUNDINGS, Quantizer)
    search = _chosen("activation", Float() if activation is None else activation, {}, RangeSearch)
    settings = _chosen("reconstruction", reconstruction, RECONSTRUCTIONS, Reconstruction)
    on = _device(device)
    given = {"num_images": num_images, "images_of": images_of}
    prepared = model if isinstance(model, Prepared) else Prepared(model, images, **given)
    teacher, shown = prepared.teacher, prepared.images

    def rounded(student: Captured) -> list[UnitReport]:
        return reconstruct(teacher, student, shown, method, settings, device=on, seed=seed)

    with silent(not progress), torch.random.fork_rng():  # who calls keeps the state of the global generator
        found = start(teacher, shown, prepared.unfolded, allocator, search, settings, on, seed, rounded)
        reports = rounded(found.student)
    student = found.student.cpu().eval()
    rows = {row["name"]: row for report in reports for row in report.rows()}
    stays = left_float(teacher, [layer.name for layer in found.layers])
    fidelity = logit_sqnr_db(logits(teacher, shown), logits(student, shown))
    report = Report([rows[layer.name] for layer in found.layers], stays, fidelity)
    name = rounding if isinstance(rounding, str) else type(method).__name__
    return Quantized(student, report, found.allocation, prepared.architecture, name, shown)


def _chosen(argument: str, given: object, words: dict[str, Callable[[], T]], kind: type[T]) -> T:
    if isinstance(given, kind):
        return given
    if isinstance(given, str) and given in words:
        return words[given]()
    near = get_close_matches(str(given), words, n=3, cutoff=0.4) or list(words)
    raise InputError(f"{argument}={given!r}: give {', '.join(near) or 'a number of bits'}, or an object")


def _device(name: str) -> torch.device:
    if name not in ("cpu", "gpu", "cuda"):
        raise InputError(f"device={name!r}: give cpu or gpu")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(f"device={name!r}: torch finds no CUDA device here; device='cpu' runs anywhere")
    return torch.device("cuda", torch.cuda.current_device())
