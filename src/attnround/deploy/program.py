"""A quantized model as a torch.export program, `.pt2`, which runs without this project.

Its weights are the levels, int8 or uint8, dequantized as the program runs: the same operations in the same order as in
the model that was measured, so the same logits. What the file says of itself is the comment at the end of its zip.

A .pt2 is a program, and torch's reader unpickles what it finds in one. Ours holds no pickle, and one that does is
refused; all the same, open only what comes from where you trust.
"""

import copy
import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from attnround.deploy.opened import Opened
from attnround.deploy.seal import check_seal, describe, read_about, read_bytes, seal
from attnround.errors import InputError, reason
from attnround.graph.capture import Captured
from attnround.quantization.grid import dequantize
from attnround.quantization.layers import QuantizedLayer, quantized_layers

GIVE = "the quantized.pt2 that src/export.py writes"
NO_COMMENT = b"\0\0"  # the length at a zip's end
PLACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")  # where a node was written


class _Dequantized(nn.Module):
    scale: Tensor
    zero_point: Tensor

    def __init__(self, layer: QuantizedLayer):
        super().__init__()
        self.register_buffer("scale", layer.scale)
        self.register_buffer("zero_point", layer.zero_point)

    def forward(self, levels: Tensor) -> Tensor:
        weight = dequantize(levels, self.scale, self.zero_point)
        return weight.clone(memory_format=torch.channels_last) if weight.ndim == 4 else weight  # with one channel too


@torch.no_grad()
def exported_program(model: nn.Module) -> torch.export.ExportedProgram:
    """The program of a quantized model, for batches of any size. Raises InputError where torch cannot export it.

    It gives what the model gives, as `returning_builtins` has it.
    """
    net = model.returning_builtins() if isinstance(model, Captured) else copy.deepcopy(model)
    for layer in quantized_layers(net).values():
        layer.layer.weight = nn.Parameter(layer.levels, requires_grad=False)
        parametrize.register_parametrization(layer.layer, "weight", _Dequantized(layer), unsafe=True)
        del layer.levels, layer.scale, layer.zero_point
    for tensor in [*net.parameters(), *net.buffers()]:
        tensor.data = tensor.detach().clone(
            memory_format=torch.contiguous_format
        )  # a view would take all that it views into the file
    images = torch.zeros(2, *model.preprocessing["input_size"])
    try:
        program = torch.export.export(net, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # torch's kinds are many
        raise InputError(f"torch.export cannot export this model ({reason(error)}): use format=onnx") from error
    program.example_inputs = None  # as large as the images
    for node in program.graph.nodes:
        for key in PLACES:
            node.meta.pop(key, None)
    return program


def sealed_program(program: torch.export.ExportedProgram, about: dict) -> tuple[bytes, str]:
    """The bytes of a .pt2 that says what it is and has its checksum in its comment; the checksum."""
    file = io.BytesIO()
    torch.export.save(program, file)
    raw, comment = file.getvalue(), describe(about).encode()
    return seal(raw.removesuffix(NO_COMMENT) + len(comment).to_bytes(2, "little") + comment)


class Program(Opened):
    """An exported program as a module: images [N, C, H, W] -> logits. Its mode was settled in export."""

    def __init__(self, program: torch.export.ExportedProgram, about: dict):
        super().__init__(about)
        self.module = program.module()

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images)

    def train(self, mode: bool = True) -> Self:
        """Leave the program alone, which refuses to be told."""
        self.training = mode
        return self


def load_program(path: str | Path) -> Program:
    """The model of an exported .pt2. Raises InputError as `open_program` does, and where there is no such file."""
    return open_program(read_bytes(path, GIVE), path)


def open_program(raw: bytes, path: str | Path) -> Program:
    """The model of a file's bytes. Raises InputError where they are damaged, a pickle, of something else or too new."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(raw))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is no whole .pt2: it is cut short, damaged or of something else") from error
    about = read_about(archive.comment, path, GIVE)
    check_seal(raw, about, path)
    if _pickles(archive):
        raise InputError(f"{path} holds pickles, which may run code when they are loaded: give {GIVE}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other versions of torch: that they do not fit is raised
            return Program(torch.export.load(io.BytesIO(raw)), about)
    except Exception as error:  # the reader's kinds are many
        raise InputError(
            f"{path}: torch {torch.__version__} does not load it ({reason(error)}): it was written with torch "
            f"{about['versions']['torch']}"
        ) from error


def _pickles(archive: zipfile.ZipFile) -> bool:
    """Whether torch's reader would unpickle a part: example inputs, constants or weights that say so."""
    for entry in archive.infolist():
        folder, _, name = entry.filename.rpartition("/")
        if folder.endswith("sample_inputs") and entry.file_size:
            return True
        if name.endswith("_config.json"):
            parts = json.loads(archive.read(entry))["config"].values()
            if any(part["use_pickle"] or not part["path_name"].startswith(("weight_", "tensor_")) for part in parts):
                return True
    return False
