"""From a quantized model to a file that is as small as its bits say, and the proof that it is the one measured."""

from attnround.deploy.comparison import compare
from attnround.deploy.file import read, save
from attnround.deploy.loading import build, fingerprint, load, open_model
from attnround.deploy.proof import prove

__all__ = ["build", "compare", "fingerprint", "load", "open_model", "prove", "read", "save"]
