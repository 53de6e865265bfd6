"""A memory of captured networks: of two that are equal in all that a capture depends on, one is captured.

torch.export takes one to four seconds of a network, half of many a test, and tests quantize the same few networks again
and again. The library and the runs that tests fork read a network that was captured before from a folder of the
session. `capture` itself, which tests of graphs call, captures whatever it is given. torch's table of translations to
ONNX is read once a process.
"""

import copy
import functools
import hashlib
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import BuiltinFunctionType, FunctionType

import torch
from torch import Tensor, nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

import attnround.deploy.loading
import attnround.prepared
from attnround.files import write_atomically
from attnround.graph import Captured

FOLDER = "ATTNROUND_TESTS_CAPTURED"  # in the environment
LIBRARIES = ("timm", "torch", "torchvision", "transformers")
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
own = []  # classes that are no library's, which live as long as their addresses are in keys


class UnknownError(Exception):
    """Something that a capture may depend on, and a key cannot say."""


def said(value: object) -> str:
    """A setting of a module."""
    if isinstance(value, bool | int | float | str | type(None) | torch.Size | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, list | tuple | set | frozenset):
        return f"{type(value)}{[said(each) for each in value]}"
    if isinstance(value, dict):
        return f"{type(value)}{[(said(key), said(each)) for key, each in value.items()]}"
    if isinstance(value, functools.partial):
        return f"partial {said(value.func)} {said(value.args)} {said(value.keywords)}"
    if isinstance(value, type):
        if value.__module__.partition(".")[0] in LIBRARIES and "<" not in value.__qualname__:
            return f"{value.__module__}.{value.__qualname__}"
        own.append(value)
        return f"{value.__qualname__} at {id(value)} of {os.getpid()}"
    if isinstance(value, FunctionType | BuiltinFunctionType) and "<" not in value.__qualname__:
        return f"{value.__module__}.{value.__qualname__}"
    raise UnknownError


def key_of(model: nn.Module, image: Tensor) -> str:
    """Of all that a capture depends on: classes, their settings, tensors, the image's shape. Raises UnknownError."""
    digest = hashlib.sha256(said([image.shape, image.dtype]).encode())
    for path, module in model.named_modules(remove_duplicate=False):
        if any(getattr(module, name) for name in HOOKS):
            raise UnknownError
        settings = {
            name: value
            for name, value in vars(module).items()
            if not name.startswith("_") and name not in ("weights_from", "pretrained_cfg", "default_cfg")
        }
        digest.update(said([path, type(module), settings]).encode())
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                about = [
                    name,
                    id(type(tensor)),
                    tensor.dtype,
                    tensor.requires_grad,
                    tensor.shape,
                    list(tensor.stride()),
                ]
                digest.update(said(about).encode() + tensor.detach().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def remembered(capture: Callable[[nn.Module, Tensor], Captured]) -> Callable[[nn.Module, Tensor], Captured]:
    """The same, which keeps what it found."""

    def found(model: nn.Module, image: Tensor) -> Captured:
        try:
            kept = Path(os.environ[FOLDER], key_of(model, image))
        except (KeyError, UnknownError):
            return capture(model, image)
        if not kept.exists():
            fresh = capture(model, image)
            try:
                write_atomically(kept, pickle.dumps(fresh))
            except RecursionError:  # of a long graph, this deep in pytest's calls
                return fresh
        captured = pickle.loads(kept.read_bytes())
        for name in ("weights_from", "pretrained_cfg", "default_cfg"):
            if hasattr(model, name):
                setattr(captured, name, getattr(model, name))
        return captured

    return found


def registry(made: Callable[..., ONNXRegistry]) -> Callable[..., ONNXRegistry]:
    """The same translations of torch's operations to ONNX, which take a second to read, for every export."""
    kept = functools.cache(made)

    def found(**options: int) -> ONNXRegistry:
        own = copy.copy(kept(**options))
        own.functions = {target: list(each) for target, each in own.functions.items()}  # an export adds its own
        return own

    return found


def install() -> None:
    """Let the library remember, and torch's exporter."""
    ONNXRegistry.from_torchlib = staticmethod(registry(ONNXRegistry.from_torchlib))
    module = sys.modules["attnround.graph.capture"]  # the package's attribute of this name is the function
    capture = remembered(module.capture)
    for each in (module, attnround.prepared, attnround.deploy.loading):
        each.capture = capture
