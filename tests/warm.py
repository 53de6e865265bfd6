"""What the process that runs of tests are forked from imports last: the project, and a memory of captured networks.

torch.export takes two to four seconds of a network, half of a small run, and tests run the same few networks again and
again. A network of timm is captured by the first run of it, and read by the later ones from a folder of the session.
"""

import gc
import hashlib
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import hydra.core.plugins
import PIL.Image
from torch import Tensor, nn

import attnround.api
import attnround.data.base
import attnround.experiment.checks  # the tasks; the entries, which read the environment, are left to the run
import attnround.experiment.quantizing
import attnround.study.runner  # noqa: F401
from attnround.files import write_atomically
from attnround.graph import Captured

FOLDER = "ATTNROUND_TESTS_CAPTURED"  # in the environment
PLAIN = (bool, int, float, str, tuple, list, dict, type(None))


def key_of(model: nn.Module, image: Tensor) -> str:
    """Of all that a capture depends on: classes, their settings, tensors, the image's shape."""
    digest = hashlib.sha256(repr((image.shape, image.dtype, model)).encode())
    for path, module in model.named_modules():
        settings = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, PLAIN) and not name.startswith("_") and name != "weights_from"
        }
        digest.update(repr((path, type(module), settings)).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(repr((name, tensor.dtype, tensor.requires_grad, tensor.shape, tensor.stride())).encode())
        digest.update(tensor.detach().numpy().tobytes())
    return digest.hexdigest()


def remembered(capture: Callable[[nn.Module, Tensor], Captured]) -> Callable[[nn.Module, Tensor], Captured]:
    """The same, which keeps what it found of networks of timm. A user's own is captured anew."""

    def found(model: nn.Module, image: Tensor) -> Captured:
        if FOLDER not in os.environ or not type(model).__module__.startswith("timm."):
            return capture(model, image)
        kept = Path(os.environ[FOLDER], key_of(model, image))
        if not kept.exists():
            write_atomically(kept, pickle.dumps(capture(model, image)))
        captured = pickle.loads(kept.read_bytes())
        captured.weights_from = model.weights_from
        return captured

    return found


module = sys.modules["attnround.graph.capture"]  # the package's attribute of this name is the function
module.capture = remembered(module.capture)
PIL.Image.init()
hydra.core.plugins.Plugins.instance()
gc.collect()
gc.freeze()  # no later collection looks through what is here already
