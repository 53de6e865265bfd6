"""The options of quantization-aware training."""

from dataclasses import dataclass
from typing import ClassVar

from attnround.errors import InputError, check_number
from attnround.training import Recipe

STARTS = ("ptq", "fp32")
BATCH_NORMS = ("folded", "reestimated")


@dataclass(frozen=True)
class NoTraining:
    """The result of post-training quantization stays as it is."""

    num_epochs: ClassVar[int] = 0


@dataclass(frozen=True, kw_only=True)
class Lsq(Recipe):
    """Fine-tune weights, weight steps and activation steps (LSQ, arXiv 1902.08153) on labelled training images.

    start: the integers that it starts from, ptq or fp32 (the float weights rounded to nearest); batch_norm: folded, or
    reestimated: put back for the training, with its statistics taken anew on the calibration images at the end;
    batch_size: images a step, on all devices together; distillation: weight of the KL divergence from the FP32 model's
    output, beside the cross-entropy's weight of 1, at this temperature; ema: decay of the averaged weights that are
    the result (0: the last ones are); held_out: part of the training images that decides which epoch is the result;
    patience: epochs without a better one after which training stops early (None: never).
    """

    group: ClassVar[str] = "qat"
    start: str = "ptq"
    batch_norm: str = "folded"
    batch_size: int = 128
    distillation: float = 1.0
    temperature: float = 1.0
    ema: float = 0.0
    held_out: float = 0.1
    patience: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in STARTS:
            raise InputError(f"qat.start={self.start}: give ptq or fp32")
        if self.batch_norm not in BATCH_NORMS:
            raise InputError(f"qat.batch_norm={self.batch_norm}: give folded or reestimated")
        check_number("qat.batch_size", self.batch_size, least=1, whole=True)
        check_number("qat.distillation", self.distillation, least=0)
        check_number("qat.temperature", self.temperature, above=0)
        check_number("qat.ema", self.ema, least=0, most=0.99999)
        check_number("qat.held_out", self.held_out, above=0, most=0.5)
        if self.patience is not None:
            check_number("qat.patience", self.patience, least=1, whole=True)
