"""The tasks of `src/train.py`: from the parts that its config instantiates to a record in the run's folder."""

from attnround.pipeline.pretraining import pretrain
from attnround.pipeline.quantizing import quantize

__all__ = ["pretrain", "quantize"]
