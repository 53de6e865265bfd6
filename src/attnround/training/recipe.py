"""The hyper-parameters of a training with labels."""

from dataclasses import dataclass
from typing import ClassVar

from attnround.errors import check_number


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of a supervised fit. lr is the peak of the cycle; warmup the fraction of steps up to it."""

    group: ClassVar[str] = "training"
    num_epochs: int
    lr: float
    weight_decay: float
    label_smoothing: float
    warmup: float = 0.2
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_number(f"{self.group}.num_epochs", self.num_epochs, least=1, whole=True)
        check_number(f"{self.group}.lr", self.lr, above=0)
        check_number(f"{self.group}.weight_decay", self.weight_decay, least=0, most=1)
        check_number(f"{self.group}.label_smoothing", self.label_smoothing, least=0, most=0.9)
        check_number(f"{self.group}.warmup", self.warmup, least=0, most=1)
        check_number(f"{self.group}.momentum", self.momentum, least=0, most=0.9999)
