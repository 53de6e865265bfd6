"""How good a model is: accuracy, fidelity to its float original, size."""

from typing import TYPE_CHECKING

from attnround.evaluation.accuracy import Outputs, is_right
from attnround.evaluation.fidelity import agreement, fidelity, kl_nats, logit_sqnr_db, logits, outputs
from attnround.evaluation.size import size_mib, stored_bytes
from attnround.lazy import lazily

if TYPE_CHECKING:
    from attnround.evaluation.run import evaluate, evaluate_together
else:
    __getattr__ = lazily(__name__, {"evaluate": "run", "evaluate_together": "run"})  # which needs Lightning

__all__ = [
    "Outputs",
    "agreement",
    "evaluate",
    "evaluate_together",
    "fidelity",
    "is_right",
    "kl_nats",
    "logit_sqnr_db",
    "logits",
    "outputs",
    "size_mib",
    "stored_bytes",
]
