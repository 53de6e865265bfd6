"""Quantization-aware training: the rival with labels, from the same grid and allocation."""

from typing import TYPE_CHECKING

from attnround.lazy import lazily
from attnround.qat.batch_norm import estimate_norms, insert_norms
from attnround.qat.layer import is_trained_from, settle_layers, train_layers
from attnround.qat.settings import Lsq, NoTraining

if TYPE_CHECKING:
    from attnround.qat.run import Tuned, finetune
else:
    __getattr__ = lazily(__name__, {"Tuned": "run", "finetune": "run"})  # which need Lightning

__all__ = [
    "Lsq",
    "NoTraining",
    "Tuned",
    "estimate_norms",
    "finetune",
    "insert_norms",
    "is_trained_from",
    "settle_layers",
    "train_layers",
]
