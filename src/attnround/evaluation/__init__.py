"""How good a model is: accuracy, fidelity to its float original, size."""

from attnround.evaluation.accuracy import Outputs, is_right
from attnround.evaluation.fidelity import agreement, logit_sqnr_db, logits, outputs
from attnround.evaluation.size import size_mib, stored_bytes
from attnround.lazy import lazily

__all__ = [
    "Outputs",
    "agreement",
    "evaluate",
    "is_right",
    "logit_sqnr_db",
    "logits",
    "outputs",
    "size_mib",
    "stored_bytes",
]
__getattr__ = lazily(__name__, {"evaluate": "run"})  # which needs Lightning
