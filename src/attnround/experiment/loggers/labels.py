"""How a run is called and found among others: its name, group and tags."""

from collections.abc import Sequence
from dataclasses import dataclass

from attnround.experiment.record import Run, model_of


@dataclass(frozen=True)
class Labels:
    """chosen: group -> option, what tells the run from others; widths: such as W4 and A8.

    group: what has to be equal for a comparison to mean something: model and data; task: what kind of run it is.
    """

    chosen: dict[str, str]
    widths: list[str]
    group: str
    task: str
    seed: int

    @classmethod
    def of(cls, run: Run, groups: Sequence[str]) -> "Labels":
        """Those of a run. groups: the config groups whose options tell it from others."""
        chosen = {group: run.choices[group] for group in groups if run.choices.get(group) not in (None, "none")}
        chosen["model"] = model_of(run.choices, run.config)
        quantized = "bits" in groups
        widths = [*weight_bits(run.config["bits"]), activation_bits(run.config["activation"])] if quantized else []
        return cls(chosen, widths, f"{chosen['model']} on {run.choices['data']}", run.task, run.seed)

    @property
    def name(self) -> str:
        return "-".join([*self.chosen.values(), *self.widths, f"seed{self.seed}"])

    @property
    def tags(self) -> list[str]:
        """`group=option` of the groups, and the widths."""
        return [*(f"{group}={option}" for group, option in self.chosen.items()), *self.widths]


def weight_bits(bits: dict) -> list[str]:
    """W and the bits asked for; a budget in another unit with that; nothing where none is asked for.

    >>> weight_bits({"bit_width": 4, "budget": None}), weight_bits({"budget": 0.5, "unit": "mib"}), weight_bits({})
    (['W4'], ['0.5mib'], [])
    """
    if bits.get("budget") is None:
        return [f"W{bits['bit_width']}"] if "bit_width" in bits else []
    return [f"W{bits['budget']:g}" if bits["unit"] == "mean_bits" else f"{bits['budget']:g}{bits['unit']}"]


def activation_bits(activation: dict) -> str:
    """A and the bits of the layers' inputs."""
    return f"A{activation.get('bit_width', 32)}"
