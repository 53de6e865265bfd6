"""Weights of EfficientNet-Lite as EfficientNet-PyTorch names them, under timm's names.

They were trained in TensorFlow, whose convolutions pad an even input on one side only and whose batch norms have an
eps of 1e-3. timm has two architectures of the same keys and shapes: tf_efficientnet_lite0 computes as TensorFlow did,
efficientnet_lite0 does not.
"""

import re

from torch import Tensor, nn

from attnround.errors import InputError

STEM = "_conv_stem.weight"  # what such weights are known by
CLASSIFIER = "_fc"
EPS = 1e-3  # of TensorFlow's batch norms

OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", CLASSIFIER: "classifier"}
EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def under_timms_names(state: dict[str, Tensor], model: nn.Module, file: str) -> dict[str, Tensor]:
    """The state with each key under the name that it has in `model`, timm's; any other state as it is.

    Raises InputError where the model has the same keys and would compute another function.
    """
    stem = next((key for key in state if key.endswith(STEM)), None)
    if stem is None:
        return state
    _check_twin(model, file)
    prefix = stem.removesuffix(STEM)
    places = (re.match(r"blocks\.\d+\.\d+(?=\.)", key) for key in model.state_dict())
    blocks = list(dict.fromkeys(place[0] for place in places if place))
    expanded = {key.split("._expand_conv")[0] for key in state if "._expand_conv." in key}
    return {_renamed(key, prefix, blocks, expanded): value for key, value in state.items()}


def _renamed(key: str, prefix: str, blocks: list[str], expanded: set[str]) -> str:
    """blocks: of the model, in the order in which the state numbers them; expanded: those of the state that expand."""
    if not key.startswith(prefix):
        return key
    name, _, kind = key.removeprefix(prefix).rpartition(".")
    if name in OUTSIDE:
        return f"{prefix}{OUTSIDE[name]}.{kind}"
    found = re.fullmatch(r"(_blocks\.(\d+))\.(\w+)", name)
    names = EXPANDED if found and prefix + found[1] in expanded else PLAIN
    if not found or found[3] not in names or int(found[2]) >= len(blocks):
        return key  # of another model, which loading says
    return f"{prefix}{blocks[int(found[2])]}.{names[found[3]]}.{kind}"


def _check_twin(model: nn.Module, file: str) -> None:
    name = getattr(model, "pretrained_cfg", {}).get("architecture", "")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    padded = [conv for conv in model.modules() if isinstance(conv, nn.Conv2d) and conv.stride != (1, 1)]
    alike = all(norm.eps == EPS for norm in norms) and all(conv.padding == (0, 0) for conv in padded)
    if name.startswith("efficientnet_lite") and not alike:
        raise InputError(
            f"model.checkpoint={file} was trained in TensorFlow, which pads otherwise than {name} and has another eps "
            f"in its batch norms, so that it would lose some points of accuracy: give model.name=tf_{name}"
        )
