"""What makes two runs the same: the options and their values, and what was chosen in each group.

Where the code of an option lies (`_target_`) does not count, so a class may move or be renamed. Nor does what only
changes where a result goes, what it is called or who hears of it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping

NO_RESULT = ("paths", "logger", "debug", "metric", "resume", "hydra")  # what changes no result
UNCOUNTED = ("_target_", "licence")  # keys that compute nothing, in any group
# Options that came after runs had been recorded: at these values a run is the one it was before they came.
LAYER_OBJECTIVE = {
    "output_metric": "none", "num_projections": 2, "metric_images": 256, "metric_damping": 0.1,
    "residual_target": False, "rounding_ridge": False,
}  # fmt: skip
NEUTRAL = {
    "activation.placement": "inputs", "activation.attention": False, "bits.places": "apart", "model.weights_key": None,
    "trainer.devices": 1, "data.class_order": None, "data.class_map": None, "data.validation": "val",
    "quantizer.init": "weight", "qat.optimizer": "sgd", "training.optimizer": "sgd",
    "reconstruction.refine": False, "reconstruction.patience": None,
    "reconstruction.mirrored": False, "reconstruction.layer_first.mirrored": False,
    "reconstruction.mixup": False, "reconstruction.layer_first.mixup": False,
    **{f"reconstruction.{name}": value for name, value in LAYER_OBJECTIVE.items()},
    **{f"reconstruction.layer_first.{name}": value for name, value in LAYER_OBJECTIVE.items()},
}  # fmt: skip

# Groups that came after runs had been recorded: so chosen, a run is the one it was before they came.
NEUTRAL_CHOICES = {"equalization": "none"}


def identity(config: Mapping[str, object], choices: Mapping[str, str | None]) -> str:
    """Twelve hex digits, the same for every run that must give the same result.

    config: with its interpolations unresolved: then the hash is the same on every machine and in every folder;
    choices: group -> the option chosen.

    >>> model = {"_target_": "here.Net", "name": "resnet18"}
    >>> one = identity({"seed": 0, "debug": True, "model": model}, {"model": "timm"})
    >>> one == identity({"model": model | {"_target_": "there.Net"}, "seed": 0}, {"model": "timm", "paths": "own"})
    True
    """
    neutral = {group for group, choice in NEUTRAL_CHOICES.items() if choices.get(group) == choice}
    options = {key: value for key, value in computing(config).items() if key not in neutral}
    chosen = {group: choices[group] for group in options if choices.get(group) is not None}
    counted = {"choices": chosen, "options": _without_neutral(options)}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:12]


def computing(config: Mapping[str, object]) -> dict[str, object]:
    """The part of a config that a result depends on."""
    return {key: _counted(value) for key, value in config.items() if key not in NO_RESULT}


def leaves(config: object, path: str = "") -> Iterator[tuple[str, object]]:
    """The dotted path and the value of every option of a config.

    >>> dict(leaves({"seed": 0, "bits": {"pinned": {"first": 8}}}))
    {'seed': 0, 'bits.pinned.first': 8}
    """
    if not isinstance(config, Mapping):
        yield path, config
        return
    for key, value in config.items():
        yield from leaves(value, f"{path}.{key}" if path else key)


def _counted(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _counted(each) for key, each in value.items() if key not in UNCOUNTED}
    return [_counted(each) for each in value] if isinstance(value, list) else value


def _without_neutral(value: object, path: str = "") -> object:
    if not isinstance(value, Mapping):
        return value
    return {
        key: _without_neutral(each, f"{path}{key}.")
        for key, each in value.items()
        if f"{path}{key}" not in NEUTRAL or NEUTRAL[f"{path}{key}"] != each
    }
