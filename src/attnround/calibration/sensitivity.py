"""How sensitive a float model is to errors in its weights, measured on calibration images for bit allocators."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnround.calibration.cache import in_batches
from attnround.calibration.moments import CentredMeans, covariance
from attnround.calibration.shrinkage import SampledMoment, shrunk
from attnround.errors import InputError
from attnround.graph import class_logits, joined
from attnround.graph.patches import Patches
from attnround.progress import bar

NUM_POSITIONS = 49  # output positions of an image that enter the second moments
BATCH_SIZE = 64


@dataclass(frozen=True)
class InputCovariance:
    """Of a layer's inputs in the float model, float32 [G, n, n] for G groups of n inputs.

    sampling_share: of the squares of its correlations, see calibration/shrinkage.py.
    """

    second: Tensor
    sampling_share: float

    def shrunk(self) -> Tensor:
        """Without what is sampling error."""
        return shrunk(self.second, self.sampling_share)


@torch.no_grad()
def input_covariances(model: nn.Module, names: list[str], images: Tensor, seed: int) -> dict[str, InputCovariance]:
    """Layer name -> covariance of its inputs.

    images: [N, C, H, W]. One pass for all layers. Raises InputError that names a layer whose inputs are not finite.
    """
    inputs = {name: _InputSums(model.get_submodule(name), seed) for name in names}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(each.add, with_kwargs=True) for name, each in inputs.items()
    ]
    batches = in_batches(images, BATCH_SIZE)
    progress = bar(len(batches), "second moments", "batch")
    try:
        for batch in batches:
            model(batch)
            progress.update()
    finally:
        progress.close()
        for hook in hooks:
            hook.remove()
    covariances = {name: each.value() for name, each in inputs.items()}
    for name, found in covariances.items():
        if not found.second.isfinite().all():
            raise InputError(f"{name}: its inputs hold NaN or infinity; the checkpoint or an image is broken")
    return covariances


class _InputSums:
    """The sums of a layer's inputs and their products, in float32 batch by batch."""

    def __init__(self, layer: nn.Module, seed: int):
        self.patches = Patches(layer, NUM_POSITIONS, torch.Generator().manual_seed(seed))
        self.means, self.moment = CentredMeans(torch.float32), SampledMoment()

    def add(self, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        """A hook on the layer's forward."""
        x = args[0] if args else kwargs["input"]
        (columns,) = self.patches.draw(x)
        columns = self.means.relative(columns)
        self.means.add(columns.shape[1], first=columns.sum(1))
        self.moment.add(columns.unflatten(1, (len(x), -1)))

    def value(self) -> InputCovariance:
        first = self.means.means()["first"]
        return InputCovariance(covariance(self.moment.mean(), first, first), self.moment.sampling_share())


@torch.enable_grad()
def fisher_traces(model: nn.Module, names: list[str], images: Tensor, num_probes: int, seed: int) -> dict[str, float]:
    """Layer name -> trace of the Fisher information of its weight, a mean over the images [N, C, H, W].

    The Fisher information is J^T (diag p - p p^T) J, with J the logits' Jacobian and p the model's own prediction: it
    needs no labels. With diag p - p p^T = S S^T its trace is E |J^T S e|^2 for random signs e over images and classes
    (Hutchinson's estimate), which takes one backward pass a probe.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {name: model.get_submodule(name).weight for name in names}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for parameter in wanted:
        parameter.requires_grad_(any(parameter is weight for weight in weights.values()))
    totals = dict.fromkeys(names, 0.0)
    batches = in_batches(images, BATCH_SIZE)
    progress = bar(len(batches) * num_probes, "Fisher information", "probe")
    try:
        for batch in batches:
            logits = class_logits(model, batch)
            p = logits.detach().softmax(1)
            for probe in range(num_probes):
                signs = torch.randint(0, 2, p.shape, generator=generator).to(p) * 2 - 1
                direction = p.sqrt() * signs - p * (p.sqrt() * signs).sum(1, keepdim=True)
                gradients = torch.autograd.grad(
                    (logits * direction).sum(), list(weights.values()),
                    retain_graph=probe + 1 < num_probes, allow_unused=True,
                )  # fmt: skip
                for name, gradient in zip(weights, gradients, strict=True):
                    if gradient is not None:  # else the logits do not depend on it
                        totals[name] += gradient.double().square().sum().item()
                progress.update()
    finally:
        progress.close()
        for parameter, before in wanted.items():
            parameter.requires_grad_(before)
    return {name: total / num_probes / len(images) for name, total in totals.items()}


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    """All that the model gives for images [N, C, H, W], [N, classes] where that is logits."""
    return torch.cat([joined(model(batch)) for batch in in_batches(images, BATCH_SIZE)])


@torch.no_grad()
def logit_noise(model: nn.Module, name: str, weight: Tensor, images: Tensor, reference: Tensor) -> float:
    """Mean square change of the logits over their variance, where this layer has this weight [O, *rest].

    reference: the float model's logits of the images.
    """
    layer = model.get_submodule(name)
    before = layer.weight.detach().clone()
    try:
        layer.weight.copy_(weight)
        noisy = logits(model, images)
    finally:
        layer.weight.copy_(before)
    return ((noisy - reference).square().mean() / reference.var()).item()
