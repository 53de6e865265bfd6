"""A float model from timm with weights from a checkpoint, from timm's hub, or none."""

import difflib
import logging
from dataclasses import dataclass

import timm
from timm.data import resolve_data_config
from torch import nn

from attnround.errors import InputError, check_number, reason
from attnround.zoo import lite
from attnround.zoo.checkpoint import State, class_count, load, read, within

logging.getLogger("timm").setLevel(logging.WARNING)  # our own lines say what is loaded

HUB = ("hf-hub:", "hf_hub:")  # before a name: its weights and config come from the Hugging Face Hub


@dataclass(frozen=True)
class TimmModel:
    """Which model, and where its weights come from.

    name: any timm name; checkpoint: a .safetensors or .pth file, or `package:<name>` for the one within an installed
    Python package; pretrained: timm's own weights, from its hub;
    random_init: no weights at all, for timing only; num_classes: null takes it from the checkpoint, else timm's;
    small_image_stem: a 3x3 stride-1 stem without pooling, for images of some 30 pixels;
    preprocessing: overrides of timm's data config; arguments: further arguments of timm's constructor;
    licence: of the weights, for the model card; null takes timm's word for its own weights;
    weights_key: which weights, where the checkpoint holds several: a dotted path such as state_dict.student; null takes
    averaged weights before others.
    """

    name: str
    checkpoint: str | None = None
    pretrained: bool = False
    random_init: bool = False
    num_classes: int | None = None
    small_image_stem: bool = False
    preprocessing: dict | None = None
    arguments: dict | None = None
    licence: str | None = None
    weights_key: str | None = None

    def __post_init__(self) -> None:
        if self.num_classes is not None:
            check_number("model.num_classes", self.num_classes, least=1, whole=True)
        sources = {"checkpoint": self.checkpoint, "pretrained": self.pretrained, "random_init": self.random_init}
        given = {name: f"model.{name}={value}".replace("True", "true") for name, value in sources.items() if value}
        if len(given) > 1:
            first, *others = given
            off = " ".join(f"model.{name}={'null' if name == 'checkpoint' else 'false'}" for name in others)
            raise InputError(
                f"{' and '.join(given.values())} contradict each other: one says where the weights come from: "
                f"give {given[first]} {off}, or the other way round"
            )

    def build(self) -> nn.Module:
        """The model in eval mode, with attributes `preprocessing` (timm's data config), `num_classes` and `licence`.

        Its attribute `weights_from` says which weights were taken, such as "state_dict of last.ckpt under model.".
        Raises InputError for an unknown name or argument, for no weights, and for a checkpoint that does not fit.
        """
        self._check_name()
        for option in ("arguments", "preprocessing"):
            if not isinstance(getattr(self, option) or {}, dict):
                raise InputError(
                    f"model.{option}={getattr(self, option)}: give names and values, as in {{a: 1}}, or null"
                )
        if self.weights_key is not None and not self.checkpoint:
            raise InputError(
                f"model.weights_key={self.weights_key} chooses in a checkpoint: give model.checkpoint=<file> too"
            )
        sets = read(self.checkpoint) if self.checkpoint else None
        if sets is None and not self.pretrained and not self.random_init:
            raise InputError(
                f"model {self.name} has no weights: give model.checkpoint=<file>, model.pretrained=true, "
                "or model.random_init=true where only cost matters"
            )
        model = self._create(self._infer_num_classes(sets))
        if not getattr(model, "num_classes", 0):
            raise InputError(f"model.arguments={self.arguments}: {self.name} gives no classes then: give others")
        if self.pretrained and sets is None and model.num_classes != model.pretrained_cfg["num_classes"]:
            raise InputError(
                f"model.num_classes={model.num_classes}: the pretrained weights of {self.name} are for "
                f"{model.pretrained_cfg['num_classes']} classes, so the classifier would be random; leave it out"
            )
        if self.small_image_stem:
            replace_stem(model)
        if sets is not None:
            model.weights_from = load(model, sets, self.checkpoint, self.weights_key)
        else:
            model.weights_from = "timm's pretrained" if self.pretrained else "random"
        model.preprocessing = self._preprocessing_of(model)
        own = model.pretrained_cfg.get("license") if self.pretrained and sets is None else None
        model.licence = self.licence or own
        return model.eval()

    @property
    def called(self) -> str:
        """What a person calls the model."""
        return self.name

    def architecture(self, model: nn.Module) -> dict:
        """What builds the modules of `model`, made by `build`, again: arguments of TimmModel, but for its weights."""
        hub = ":" in self.name  # its config is out there; the architecture it names is timm's own
        return {
            "name": model.pretrained_cfg["architecture"] if hub else self.name,
            "num_classes": model.num_classes,
            "small_image_stem": self.small_image_stem,
            "arguments": self.arguments or {},
            "preprocessing": model.preprocessing,
        }

    def _preprocessing_of(self, model: nn.Module) -> dict:
        """timm's data config with the overrides. Raises InputError where it is not what the model takes."""
        try:
            settings = resolve_data_config(args=self.preprocessing or {}, pretrained_cfg=model.pretrained_cfg)
        except (AssertionError, TypeError, ValueError) as error:
            raise InputError(
                f"model.preprocessing={self.preprocessing} is not what timm's data config takes: give "
                "input_size:[channels,height,width], mean and std with a value a channel, interpolation, crop_pct"
            ) from error
        unknown = sorted(set(self.preprocessing or {}) - set(settings))
        if unknown:
            raise InputError(f"model.preprocessing has no {', '.join(unknown)}: there are {', '.join(settings)}")
        channels = (self.arguments or {}).get("in_chans", model.pretrained_cfg["input_size"][0])
        if not channels == settings["input_size"][0] == len(settings["mean"]) == len(settings["std"]):
            raise InputError(
                f"model.preprocessing does not fit {self.name}, which takes {channels} channels: input_size is "
                f"{list(settings['input_size'])}, mean {list(settings['mean'])}, std {list(settings['std'])}; "
                "give as many channels, as in model.preprocessing={input_size:[1,28,28],mean:[0.29],std:[0.35]}"
            )
        return settings

    def _check_name(self) -> None:
        base = self.name.split(".")[0]
        if not timm.is_model(base) and not self.name.startswith((*HUB, "local-dir:")):
            close = difflib.get_close_matches(base, timm.list_models(), n=5, cutoff=0.5)
            hint = f"the closest are {', '.join(close)}" if close else "timm.list_models() lists them"
            raise InputError(f"model.name={self.name} is not a timm model: {hint}")

    def _create(self, num_classes: int | None) -> nn.Module:
        arguments = dict(self.arguments or {})
        if num_classes is not None:
            arguments["num_classes"] = num_classes
        try:
            return timm.create_model(self.name, pretrained=self.pretrained and not self.checkpoint, **arguments)
        except TypeError as error:
            raise InputError(f"model.arguments={arguments} do not fit {self.name}: {error}") from error
        except (RuntimeError, OSError, ValueError) as error:
            hint = "; without a network, fetch the weights elsewhere and give model.checkpoint=<file>"
            raise InputError(
                f"timm could not make {self.name} ({type(error).__name__}: {reason(error)})"
                + (hint if self.pretrained else "")
            ) from error

    def _infer_num_classes(self, sets: dict[str, State] | None) -> int | None:
        if self.num_classes is not None or sets is None:
            return self.num_classes
        config = timm.get_pretrained_cfg(self.name.split(".")[0])
        classifier = config.classifier if config else None
        if not isinstance(classifier, str):
            return None
        asked = within(sets, self.weights_key)
        return class_count(asked, classifier) or class_count(asked, lite.CLASSIFIER)


def hub_id(name: str) -> str | None:
    """Where the pretrained weights of a timm name lie on the Hugging Face Hub; None where they do not.

    >>> hub_id("resnet18.a1_in1k"), hub_id("hf-hub:timm/resnet18.a1_in1k@main"), hub_id("nothing")
    ('timm/resnet18.a1_in1k', 'timm/resnet18.a1_in1k', None)
    """
    if name.startswith(HUB):
        return name.split(":", 1)[1].split("@")[0]  # what may follow is a revision
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that this timm does not know
        return None
    return (config and config.hf_hub_id) or None


def replace_stem(model: nn.Module) -> None:
    """Put a 3x3 stride-1 convolution in place of the model's stem, and nothing in place of a max pool behind it."""
    convs = (name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    first = next(convs).split(".")[0]  # a deep stem is a Sequential of convolutions; all of it goes
    stem = [module for module in model.get_submodule(first).modules() if isinstance(module, nn.Conv2d)]
    conv = nn.Conv2d(stem[0].in_channels, stem[-1].out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    setattr(model, first, conv)
    if isinstance(getattr(model, "maxpool", None), nn.Module):
        model.maxpool = nn.Identity()
