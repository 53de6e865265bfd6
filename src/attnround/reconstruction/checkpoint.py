"""Finished units on disk, so that a reconstruction that was killed goes on from there and ends with the same bits."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attnround.errors import InputError
from attnround.files import load_checked, write_atomically
from attnround.quantization.layers import QuantizedLayer, quantized_layers
from attnround.reconstruction.report import UnitReport

FORMAT = "attnround reconstruction 1"


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
            restore_layer(layers[name], state)
        return [UnitReport.from_plain(values) for values in content["reports"]]

    def read(self) -> dict | None:
        """The file's content; None where there is no file yet. Raises InputError as `restore` does."""
        if not self.path.exists():
            return None
        try:
            content = load_checked(self.path)
        except Exception as error:  # a damaged archive raises what its damage happens to hit
            raise InputError(
                f"{self.path} cannot be read ({type(error).__name__}): it is damaged; remove it to start anew"
            ) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(f"{self.path} is not a reconstruction of this version: remove it to start anew")
        if content["identity"] != self.identity:
            raise InputError(
                f"{self.path} is of a run with another config ({content['identity']}, this one is {self.identity}): "
                "repeat that run's options and seed exactly, or start anew without resume"
            )
        return content


def layer_state(layer: QuantizedLayer) -> dict[str, Tensor]:
    """Copies of a layer's integers, scales and bias, from which its float weight follows."""
    return {key: value.detach().clone() for key, value in layer.state_dict().items() if key != "layer.weight"}


def restore_layer(layer: QuantizedLayer, state: dict[str, Tensor]) -> None:
    """Load what `layer_state` gave, and bake it."""
    layer.load_state_dict(state, strict=False)
    layer.bake(layer.levels)
