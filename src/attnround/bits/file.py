"""An allocation as a file that people can read, edit and feed back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from attnround.bits.allocation import Allocation, Allocator, Layer, Problem
from attnround.errors import InputError, listed, reason
from attnround.files import json_text
from attnround.quantization.pins import Pins, check_bit_width, check_pins
from attnround.typed import Plain, check, parsed, parsed_yaml

ROWS = {"layers": [{"layer": str, "bits?": Plain, "shape?": [int]}]}


def allocation_json(allocation: Allocation, layers: Sequence[Layer]) -> str:
    """The file's text: a line a layer, with its shape, bits, size of its levels and the score it was chosen by."""
    lines = [
        json_text(
            {
                "layer": layer.name,
                "shape": list(layer.weight.shape),
                "bits": allocation.bit_width[layer.name],
                "size_bytes": -(-layer.weight.numel() * allocation.bit_width[layer.name] // 8),
                "score": allocation.score.get(layer.name),
            }
        )
        for layer in layers
    ]
    about = {
        "mean_bits": allocation.mean_bits(layers),
        "convention": allocation.convention,
        "budget": allocation.budget,
    }
    if allocation.predicted_sqnr_db is not None:
        about["predicted_sqnr_db"] = round(allocation.predicted_sqnr_db, 2)
    head = "".join(f"  {json.dumps(key)}: {json_text(value)},\n" for key, value in about.items())
    return f'{{\n{head}  "layers": [\n    ' + ",\n    ".join(lines) + "\n  ]\n}\n"


@dataclass(frozen=True, kw_only=True)
class File(Allocator):
    """path: an allocation.json, or a JSON or YAML file of `layer name: bits`. It names every layer, and only those."""

    path: str
    pinned: Pins = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_pins("bits.pinned", self.pinned)
        self._read()  # what is wrong with it is said before any work

    def allocate(self, problem: Problem) -> Allocation:
        """Raises InputError for a file that is not there or not whole, and for missing or foreign layers."""
        given = self._read()
        names = [layer.name for layer in problem.layers]
        for name in given:
            if name not in names:
                near = get_close_matches(name, names, n=1, cutoff=0)
                raise InputError(f"bits.path={self.path}: the model has no layer {name}; the nearest is {near[0]}")
        missing = [name for name in names if name not in given]
        if missing:
            raise InputError(f"bits.path={self.path}: no bits for {listed(missing)}: name every layer")
        for layer in problem.layers:
            shape = given[layer.name].get("shape", list(layer.weight.shape))
            if shape != list(layer.weight.shape):
                raise InputError(
                    f"bits.path={self.path}: {layer.name} has the shape {list(layer.weight.shape)}, not {shape}: this "
                    "is another model's allocation"
                )
            check_bit_width(f"bits.path={self.path}: {layer.name}", given[layer.name].get("bits"))
        pins = self.pins(problem.layers)
        return Allocation({name: pins.get(name, given[name]["bits"]) for name in names}, {}, f"the file {self.path}")

    def _read(self) -> dict[str, dict]:
        """Layer name -> what the file says of it."""
        path = Path(self.path)
        try:
            raw = path.read_bytes()
            content = parsed(raw) if path.suffix == ".json" else parsed_yaml(raw.decode())
        except (OSError, ValueError) as error:
            raise InputError(f"bits.path={self.path} cannot be read: {reason(error)}") from error
        has_rows = isinstance(content, dict) and isinstance(content.get("layers"), list)
        try:
            check(content, ROWS if has_rows else {str: Plain})
        except ValueError as error:
            raise InputError(
                f"bits.path={self.path}: give an allocation.json, or a file of `layer name: bits` ({error})"
            ) from error
        if not has_rows:
            return {str(name): {"bits": bits} for name, bits in content.items()}
        names = [row["layer"] for row in content["layers"]]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise InputError(f"bits.path={self.path}: {twice[0]} is there twice")
        return dict(zip(names, content["layers"], strict=True))
