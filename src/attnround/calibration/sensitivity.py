"""How sensitive a float model is to errors in its weights, measured on calibration images for bit allocators."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnround.calibration.gradients import gradients_of
from attnround.calibration.moments import CentredMeans, covariance, mirrored
from attnround.calibration.output_metric import check_classes, projected
from attnround.calibration.shrinkage import SampledMoment, shrunk
from attnround.errors import InputError
from attnround.graph import class_logits, in_batches, joined
from attnround.graph.kinds import grouped_rows, kind_of
from attnround.graph.patches import Patches
from attnround.progress import bar

NUM_POSITIONS = 49  # output positions of an image that enter the second moments
BATCH_SIZE = 64
SHARED = 4  # images that share a backward pass
NEXT_TO_NONE = 1e-30  # of the logits' variance, where all are the same
NUM_ROWS = 32  # of a layer's gradient, or random sums of more, which have the same moments


@dataclass(frozen=True)
class InputCovariance:
    """Of a layer's inputs in the float model, float32 [G, n, n] for G groups of n inputs, and their mean [G, n].

    sampling_share: of the squares of its correlations, see calibration/shrinkage.py; None where it was not asked for.
    """

    second: Tensor
    sampling_share: float | None
    mean: Tensor

    def shrunk(self) -> Tensor:
        """Without what is sampling error."""
        assert self.sampling_share is not None, "sampling error was not measured"
        return shrunk(self.second, self.sampling_share)


@torch.no_grad()
def input_covariances(
    model: nn.Module, names: list[str], images: Tensor, seed: int, with_error: bool = True
) -> dict[str, InputCovariance]:
    """Layer name -> covariance of its inputs.

    images: [N, C, H, W]; with_error: measure the share of sampling error. One pass for all layers. Raises InputError
    that names a layer whose inputs are not finite.
    """
    inputs = {name: _InputSums(model.get_submodule(name), seed, with_error) for name in names}
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

    def __init__(self, layer: nn.Module, seed: int, with_error: bool):
        self.patches = Patches(layer, NUM_POSITIONS, torch.Generator().manual_seed(seed))
        self.means, self.moment = CentredMeans(torch.float32), SampledMoment() if with_error else None

    def add(self, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        """A hook on the layer's forward."""
        x = args[0] if args else kwargs["input"]
        (columns,) = self.patches.draw(x)
        columns = self.means.relative(columns)
        self.means.add(columns.shape[1], first=columns.sum(1))
        if self.moment is None:
            self.means.add_products("second", columns)
        else:
            self.moment.add(columns.unflatten(1, (len(x), -1)))

    def value(self) -> InputCovariance:
        found = self.means.means()
        assert self.means.origin is not None, "covariance of no batch"
        first = found["first"]
        second = mirrored(found["second"]) if self.moment is None else self.moment.mean()
        share = None if self.moment is None else self.moment.sampling_share()
        return InputCovariance(covariance(second, first, first), share, self.means.origin[:, 0] + first)


@torch.enable_grad()
def fisher_traces(model: nn.Module, names: list[str], images: Tensor, num_probes: int, seed: int) -> dict[str, float]:
    """Layer name -> trace of the Fisher information of its weight, a mean over the images [N, C, H, W].

    The Fisher information is J^T (diag p - p p^T) J, with J the logits' Jacobian and p the model's own prediction: it
    needs no labels. With diag p - p p^T = S S^T its trace is E |J^T S e|^2 for random signs e over images and classes
    (Hutchinson's estimate), which takes one backward pass a probe.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {name: model.get_submodule(name).weight for name in names}
    totals = dict.fromkeys(names, 0.0)
    batches = in_batches(images, BATCH_SIZE)
    progress = bar(len(batches) * num_probes, "Fisher information", "probe")
    try:
        with gradients_of(model, weights.values()):
            for batch in batches:
                logits = class_logits(model, batch)
                check_classes(logits)
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
    return {name: total / num_probes / len(images) for name, total in totals.items()}


@torch.enable_grad()
def joint_moments(
    model: nn.Module, means: dict[str, Tensor], images: Tensor, kind: str, seed: int, num_probes: int = 2
) -> dict[str, Tensor]:
    """Layer name -> covariance of the rows of M = d output / d weight [G, n, n], for G groups of n inputs.

    What an error of a weight's rows changes the network's output by, where its effects at all places of an image come
    together, as the gradient of the weight has them, and which outputs of the layer err does not matter. Two means
    count for nothing, as biases make up for them: that of the layer's inputs, layer name -> [G, n] in `means`, and that
    of M over the images. kind: of the network's output, as `OutputMetric` has it.

    images: [N, C, H, W]. Those of a batch share a backward pass: its gradient is the sum of independent ones, so that
    its covariance is theirs.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    layers = {name: model.get_submodule(name) for name in means}
    outputs: dict[str, list[Tensor]] = {name: [] for name in means}
    hooks = [
        layer.register_forward_hook(lambda layer, args, y, name=name: outputs[name].append(y))
        for name, layer in layers.items()
    ]
    weights = [layer.weight for layer in layers.values()]
    sums = {name: _RowSums(seed) for name in means}
    batches = in_batches(images, SHARED)
    progress = bar(len(batches) * num_probes, "joint moments", "probe")
    signs: list[Tensor] = []  # of each probe, the same for all images: else means over images would be hidden by them
    try:
        with gradients_of(model, weights):
            for batch in batches:
                for each in outputs.values():
                    each.clear()
                found = class_logits(model, batch) if kind == "fisher" else joined(model(batch), len(batch))
                for probe in range(num_probes):
                    if len(signs) == probe:
                        signs.append(
                            2 * torch.randint(0, 2, found.shape[1:], generator=generator, device=found.device) - 1
                        )
                    drawn = projected(found, kind, generator) if kind == "fisher" else (found * signs[probe]).sum()
                    watched = [y for each in outputs.values() for y in each]
                    gradients = torch.autograd.grad(
                        drawn, weights + watched, retain_graph=probe + 1 < num_probes, allow_unused=True
                    )
                    of_outputs = iter(gradients[len(weights) :])
                    for (name, layer), of_weight in zip(layers.items(), gradients, strict=False):
                        moved = [next(of_outputs) for _ in outputs[name]]
                        if of_weight is not None:  # else the output does not depend on it
                            sums[name].add(probe, _centred(layer, of_weight, moved, means[name]))
                    progress.update()
    finally:
        progress.close()
        for hook in hooks:
            hook.remove()
    return {name: each.covariance(means[name], len(batches), len(images)) for name, each in sums.items()}


class _RowSums:
    """Sums of batches' gradients and of their products."""

    def __init__(self, seed: int) -> None:
        self.totals: dict[int, Tensor] = {}  # of each probe
        self.product: Tensor | None = None
        self.generator = torch.Generator().manual_seed(seed + 1)  # the network's output is projected with `seed`
        self.drawn: Tensor | None = None

    def signs(self, rows: Tensor) -> Tensor:
        """[NUM_ROWS, o], the same for all batches, of columns of length 1 on average."""
        if self.drawn is None:
            drawn = 2 * torch.randint(0, 2, (NUM_ROWS, rows.shape[1]), generator=self.generator) - 1
            self.drawn = drawn.to(rows) / NUM_ROWS**0.5
        return self.drawn

    def add(self, probe: int, rows: Tensor) -> None:
        """The gradient of a batch, [G, o, n]."""
        if rows.shape[1] > NUM_ROWS:
            rows = self.signs(rows) @ rows
        self.totals[probe] = self.totals[probe] + rows if probe in self.totals else rows
        product = rows.mT @ rows
        self.product = product if self.product is None else self.product + product

    def covariance(self, mean: Tensor, num_batches: int, num_images: int) -> Tensor:
        """[G, n, n] an image, a mean over the probes; zeros where nothing was added."""
        if self.product is None:
            return torch.zeros(*mean.shape, mean.shape[1])
        product, degrees = self.product, num_batches
        if num_batches > 1:
            degrees -= 1
            product = product - sum(total.mT @ total for total in self.totals.values()) / num_batches
        return product * (num_batches / degrees) / num_images / len(self.totals)


def _centred(layer: nn.Module, of_weight: Tensor, of_outputs: list[Tensor | None], mean: Tensor) -> Tensor:
    """The gradient of a weight as rows [G, o, n], for inputs less their mean."""
    rows = grouped_rows(layer, of_weight)
    for gradient in of_outputs:
        if gradient is not None:
            rows = rows - kind_of(layer).summed(layer, gradient)[:, :, None] * mean[:, None, :]
    return rows


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    """All that the model gives for images [N, C, H, W], [N, classes] where that is logits."""
    return torch.cat([joined(model(batch), len(batch)) for batch in in_batches(images, BATCH_SIZE)])


@torch.no_grad()
def logit_noise(model: nn.Module, name: str, weight: Tensor, images: Tensor, reference: Tensor) -> float:
    """Mean square change of the logits over their variance, where this layer has this weight [O, *rest].

    reference: the float model's logits of the images. What is infinite there is a masked class, and does not count.
    """
    layer = model.get_submodule(name)
    before = layer.weight.detach().clone()
    try:
        layer.weight.copy_(weight)
        noisy = logits(model, images)
    finally:
        layer.weight.copy_(before)
    counts = reference.isfinite()
    change = (noisy - reference)[counts].square().mean()
    return (change / reference[counts].var().clamp(min=NEXT_TO_NONE)).item()
