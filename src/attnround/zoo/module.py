"""A float model of the user's own, made by a function that an option names."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from attnround.errors import InputError, check_number, reason
from attnround.factory import made
from attnround.graph import check_names, logits_in, tensors, unwrapped
from attnround.zoo.checkpoint import load, read

SETTINGS = {  # as timm's data config has it for a model that says nothing
    "interpolation": "bilinear", "mean": None, "std": None, "crop_pct": 0.875, "crop_mode": "center",
}  # fmt: skip
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class ModuleModel:
    """Which function makes the model, and what its images are.

    factory: package.module:function or file.py:function, which returns an nn.Module; arguments: of its call;
    checkpoint: weights that are loaded into it, null keeps those it comes with; weights_key: as of `TimmModel`;
    name: what tables and the card call it, null the function's own name; input_size: [C, H, W] of an image, null where
    the module has timm's `pretrained_cfg`; preprocessing: overrides of timm's data config (mean, std, interpolation,
    crop_pct), by which image files are prepared; output: key or index of the logits, where the model gives several
    tensors; licence: of the weights, for the model card.
    """

    factory: str
    arguments: dict | None = None
    checkpoint: str | None = None
    weights_key: str | None = None
    name: str | None = None
    input_size: Sequence[int] | None = None
    preprocessing: dict | None = None
    output: str | int | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        for length in self.input_size or ():
            check_number("model.input_size", length, least=1, most=2**16, whole=True)
        if self.weights_key is not None and not self.checkpoint:
            raise InputError(
                f"model.weights_key={self.weights_key} chooses in a checkpoint: give model.checkpoint=<file> too"
            )
        if self.output is not None and not isinstance(self.output, str):
            check_number("model.output", self.output, least=0, whole=True)

    def build(self) -> nn.Module:
        """The model in eval mode, with `preprocessing`, `num_classes`, `licence`, `weights_from` and `logits_at`.

        Raises InputError where the function does not give a module, or the module does not take such images.
        """
        model = made("model.factory", self.factory, self.arguments)
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise InputError(f"model.factory={self.factory} gives a {kind}: it must return an nn.Module")
        model = unwrapped(model)
        check_names(model)
        own = getattr(model, "pretrained_cfg", None) or {}
        source = f"as {self.factory} gives them"
        if self.checkpoint:
            source = load(model, read(self.checkpoint), self.checkpoint, self.weights_key)
        self._note(model, weights_from=source, preprocessing=self._preprocessing(own))
        self._note(model, licence=self.licence or own.get("license"), num_classes=self._num_classes(model.eval()))
        return model

    def _note(self, model: nn.Module, **facts: object) -> None:
        """Put what others have to know of a model on it. Raises InputError where its class does not let one."""
        for name, value in facts.items():
            try:
                setattr(model, name, value)
            except (AttributeError, TypeError) as error:
                raise InputError(
                    f"model.factory={self.factory}: its {name} cannot be set to {value} ({reason(error)}): rename it"
                ) from error

    def architecture(self, model: nn.Module) -> dict[str, object]:
        """What a saved file says of the model: it is rebuilt by the user's own function, which a file never names."""
        about: dict[str, object] = {
            "module": self.called,
            "num_classes": model.num_classes,
            "preprocessing": model.preprocessing,
        }
        return about | {"input_size": list(model.preprocessing["input_size"]), "output": model.logits_at}

    @property
    def called(self) -> str:
        """What tables and the card call it."""
        return self.name or self.factory.rpartition(":")[2]

    def _preprocessing(self, own: dict) -> dict:
        size = self.input_size or own.get("input_size")
        if size is None or len(list(size)) < 2:
            raise InputError(f"model.input_size={size}: give the shape of an image, such as [3,224,224]")
        size = tuple(size)
        default = IMAGENET if size[0] == 3 else {"mean": (0.5,) * size[0], "std": (0.5,) * size[0]}
        known = SETTINGS | default | {key: own[key] for key in SETTINGS if own.get(key) is not None}
        unknown = sorted(set(self.preprocessing or {}) - set(known))
        if unknown:
            raise InputError(f"model.preprocessing has no {', '.join(unknown)}: there are {', '.join(known)}")
        return {"input_size": size} | known | (self.preprocessing or {})

    def _num_classes(self, model: nn.Module) -> int:
        size = list(model.preprocessing["input_size"])
        try:
            kind = next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.float32)
            with torch.no_grad():
                outputs = model(torch.zeros(2, *size, dtype=kind))
            logits, found = logits_in(outputs, self.output), tensors(outputs)
            at = next(key for key, each in found.items() if each is logits) if len(found) > 1 else None
        except InputError as error:
            raise InputError(str(error).replace("output=", "model.output=", 1)) from None
        except Exception as error:  # the user's own forward
            kind = type(error).__name__
            raise InputError(
                f"model.factory={self.factory}: its forward on an image of {size} raised {kind}: {reason(error)}; "
                "model.input_size=[C,H,W] says what an image is"
            ) from error
        self._note(model, logits_at=at)
        return logits.shape[1] if logits.ndim > 1 else 1
