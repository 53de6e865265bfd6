"""The hyper-parameters of a training with labels."""

from dataclasses import dataclass
from typing import ClassVar

from attnround.errors import InputError, check_number, choice

OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of a supervised fit.

    lr: the peak of the cycle; warmup: the fraction of steps up to it; optimizer: `sgd`, with Nesterov momentum, or
    `adamw` (arXiv 1711.05101), which transformers want; weight_decay: as either has it; momentum: of `sgd`,
    0.05 less of it where the rate is at its peak and 0.05 more at the ends (1cycle, arXiv 1803.09820); 0: none.
    """

    group: ClassVar[str] = "training"
    num_epochs: int
    lr: float
    weight_decay: float
    label_smoothing: float
    warmup: float = 0.2
    momentum: float = 0.9
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        check_number(f"{self.group}.num_epochs", self.num_epochs, least=1, whole=True)
        check_number(f"{self.group}.lr", self.lr, above=0)
        check_number(f"{self.group}.weight_decay", self.weight_decay, least=0, most=1)
        check_number(f"{self.group}.label_smoothing", self.label_smoothing, least=0, most=0.9)
        check_number(f"{self.group}.warmup", self.warmup, least=0, most=1)
        check_number(f"{self.group}.momentum", self.momentum, least=0, most=0.9999)
        if self.optimizer not in OPTIMIZERS:
            raise InputError(choice(f"{self.group}.optimizer", self.optimizer, OPTIMIZERS))
