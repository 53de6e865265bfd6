"""Finished units on disk, so that a reconstruction that was killed goes on from there and ends with the same bits."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attnround.errors import InputError, check_identity
from attnround.files import write_atomically
from attnround.quantization.layers import QuantizedLayer, quantized_layers
from attnround.reconstruction.report import UNIT, UnitReport
from attnround.typed import load_typed

FORMAT = "attnround reconstruction 3"
CONTENT = {"format": str, "identity": str, "reports": [UNIT], "layers": {str: {str: Tensor}}, "bits": {str: int}}


@dataclass(frozen=True)
class Checkpoint:
    """The file, and the identity of the run that may go on from it: a hash of what decides its result."""

    path: Path
    identity: str

    def save(self, student: nn.Module, reports: Sequence[UnitReport]) -> None:
        """Write the finished units: the whole file or, wherever the process is killed, none of it."""
        layers = quantized_layers(student)
        done = [layer.name for report in reports for layer in report.layers]
        content = {
            "format": FORMAT,
            "identity": self.identity,
            "reports": [asdict(report) for report in reports],
            "layers": {name: layer_state(layers[name]) for name in done},
            "bits": {name: layers[name].grid.bit_width for name in done},
        }
        file = io.BytesIO()
        torch.save(content, file)
        write_atomically(self.path, file.getvalue())

    def restore(self, student: nn.Module) -> list[UnitReport]:
        """Bake the finished units into the student and return their reports; none where there is no file yet.

        Raises InputError for a file that is damaged, of something else, or of a run with another config.
        """
        content = self.read()
        if content is None:
            return []
        layers = quantized_layers(student)
        for name, state in content["layers"].items():
            if name not in layers or shapes(state) != shapes(layer_state(layers[name])):
                raise InputError(f"{self.path} is of another model, as {name} shows: remove it to start anew")
            if content["bits"][name] != layers[name].grid.bit_width:
                raise InputError(f"{self.path} is of other bits, as {name} shows: remove it to start anew")
        for name, state in content["layers"].items():
            restore_layer(layers[name], state)
        return [UnitReport.from_plain(values) for values in content["reports"]]

    def read(self) -> dict | None:
        """The file's content; None where there is no file yet. Raises InputError as `restore` does."""
        if not self.path.exists():
            return None
        content = load_typed(self.path, CONTENT, "reconstruction", "remove it to start anew")
        if content["format"] != FORMAT:
            raise InputError(f"{self.path} is not a reconstruction of this version: remove it to start anew")
        reported = {layer["name"] for report in content["reports"] for layer in report["layers"]}
        if not content["layers"].keys() == content["bits"].keys() == reported:
            raise InputError(f"{self.path} has other layers than it reports on: remove it to start anew")
        check_identity(self.path, content["identity"], self.identity)
        return content


def layer_state(layer: QuantizedLayer) -> dict[str, Tensor]:
    """Copies of a layer's integers, scales and bias, from which its float weight follows."""
    return {key: value.detach().clone() for key, value in layer.state_dict().items() if key != "layer.weight"}


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """What a layer's state is made of."""
    return {key: (value.shape, value.dtype) for key, value in state.items()}


def restore_layer(layer: QuantizedLayer, state: dict[str, Tensor]) -> None:
    """Load what `layer_state` gave, and bake it."""
    layer.load_state_dict(state, strict=False)
    layer.bake(layer.levels)
