"""The metric of a layer's output: how much an error of it moves the network's output.

With g the gradient of a projection of the network's output at the layer's output, at a place of an image,

    G = E[g g^T]                               [O/G, O/G] for each group of a grouped convolution

so that tr(G E[y y^T]) is the mean square change of the projections by small errors y of the layer's output, where these
do not depend on g: the Kronecker factorisation of K-FAC (Martens, Grosse, arXiv 1503.05671). `logits`: projections on
random signs, whose mean square is the squared change of all logits. `fisher`: the gradient of the log-likelihood of a
label drawn from the model's own prediction, whose mean square is the change of the prediction (KL divergence, twice).

G of few images is chance to a part, which is shrunk away (calibration/shrinkage.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnround.calibration.gradients import gradients_of
from attnround.calibration.shrinkage import SampledMoment, shrunk
from attnround.errors import InputError, check_number
from attnround.graph import class_logits, find_layers, in_batches, joined
from attnround.graph.patches import Patches
from attnround.progress import bar
from attnround.ranks import is_own

NUM_POSITIONS = 49  # output positions of an image that enter the metric
BATCH_SIZE = 64
KINDS = ("logits", "fisher")
DAMPING = 0.1  # the share of the metric in which all outputs count alike, by default
TINY = 1e-30  # keeps the metric of outputs on which nothing depends positive


@dataclass(frozen=True)
class OutputMetric:
    """How the metric of outputs is measured.

    kind: `logits` or `fisher`; num_projections: backward passes; num_images: that they go over, the first ones.
    """

    kind: str = "logits"
    num_projections: int = 2
    num_images: int = 256

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"reconstruction.output_metric={self.kind}: give one of {', '.join(KINDS)}, or none")
        check_number("reconstruction.num_projections", self.num_projections, least=1, whole=True)
        check_number("reconstruction.metric_images", self.num_images, least=1, whole=True)


def measure(metric: OutputMetric | None, model: nn.Module, images: Tensor, seed: int) -> dict[str, Tensor]:
    """Layer name -> G, for all layers of a model on the device of the images; none where no metric is asked for."""
    if metric is None:
        return {}
    shown = images[: metric.num_images]
    return output_metrics(model, list(find_layers(model)), shown, metric.kind, metric.num_projections, seed)


@torch.enable_grad()
def output_metrics(
    model: nn.Module, names: list[str], images: Tensor, kind: str, num_projections: int, seed: int
) -> dict[str, Tensor]:
    """Layer name -> G, float32 [G, o, o] for G groups of o outputs, a mean over images and places.

    images: [N, C, H, W]; kind: `logits` or `fisher`; a forward pass, and a backward pass a projection, for all layers.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    sums = {name: GradientSums(model.get_submodule(name), seed) for name in names}
    hooks = [model.get_submodule(name).register_forward_hook(each.watch) for name, each in sums.items()]
    batches = in_batches(images, BATCH_SIZE)
    progress = bar(len(batches) * num_projections, "output metric", "projection")
    passed: list[int] = []  # sizes of the batches since the last one here, which other processes have
    try:
        with gradients_of(model):
            for i, batch in enumerate(batches):
                if is_own(i):
                    add_projections(model, batch, sums, kind, num_projections, generator, passed)
                    passed = []
                else:
                    passed.append(len(batch))
                progress.update(num_projections)
    finally:
        progress.close()
        for hook in hooks:
            hook.remove()
    return {name: each.value() for name, each in sums.items()}


def add_projections(
    model: nn.Module,
    batch: Tensor,
    sums: Mapping[str, "GradientSums"],
    kind: str,
    num_projections: int,
    generator: torch.Generator,
    passed: Sequence[int],
) -> None:
    """Add what gradients of random projections of a batch's outputs say.

    passed: sizes of batches before it that other processes have: they draw here what they draw in a process that has
    them all.
    """
    for each in sums.values():
        each.begin([size for size in passed for _ in range(num_projections)])
    outputs = class_logits(model, batch) if kind == "fisher" else joined(model(batch), len(batch))
    for size in passed:
        for _ in range(num_projections):
            projected(outputs.new_zeros(size, *outputs.shape[1:]), kind, generator)
    for number in range(num_projections if outputs.requires_grad else 0):  # else it depends on no layer
        watched = [output for each in sums.values() for output in each.outputs]
        gradients = torch.autograd.grad(
            projected(outputs, kind, generator),
            watched,
            retain_graph=number + 1 < num_projections,
            allow_unused=True,
        )
        places = iter(gradients)
        for each in sums.values():
            each.add([next(places) for _ in each.outputs])


@torch.enable_grad()
def metric_of_channels(
    metric: OutputMetric, rest: nn.Module, batches: Iterable[Tensor], dim: int, generator: torch.Generator
) -> Tensor:
    """G [1, C, C] of a value that all the rest of the network needs, and nothing else.

    rest: from the value to the network's output; batches: of the value [N, *shape]; dim: of its C channels, all other
    dimensions being places.
    """
    moment = SampledMoment()
    for batch in batches:
        values = batch.detach().requires_grad_()
        outputs = rest(values)
        for number in range(metric.num_projections):
            drawn = projected(outputs, metric.kind, generator)
            (gradient,) = torch.autograd.grad(drawn, values, retain_graph=number + 1 < metric.num_projections)
            rows = gradient.movedim(dim, -1).reshape(len(gradient), -1, gradient.shape[dim])
            places = torch.randperm(rows.shape[1], generator=generator, device=rows.device)[:NUM_POSITIONS]
            moment.add(rows[None, :, places])
    return shrunk(moment.mean(), moment.sampling_share())


def projected(outputs: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """The sum over images of a random projection of each one's output [N, *]."""
    if kind == "logits":
        signs = torch.randint(0, 2, outputs.shape, generator=generator, device=outputs.device)
        return (outputs * (2 * signs - 1)).sum()
    return surprise(outputs, generator)


def surprise(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Minus the log-likelihood of labels drawn from the prediction of logits [N, classes, ...], summed over all."""
    check_classes(logits)
    rows = logits.movedim(1, -1).flatten(0, -2)
    labels = torch.multinomial(rows.detach().softmax(1), 1, generator=generator).flatten()
    return nn.functional.cross_entropy(rows, labels, reduction="sum")


def check_classes(logits: Tensor) -> None:
    """Raise InputError where logits are not of several classes, so that no label could be another."""
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise InputError(
            f"the logits are {list(logits.shape)}: Fisher information is of [N, classes], 2 classes or more; give "
            "another measure (bits=sensitivity, reconstruction.loss=mse, reconstruction.output_metric=logits)"
        )


def factor_of(metric: Tensor, damping: float = DAMPING) -> Tensor | None:
    """F [G, o, o] in float64, upper triangular, of G = F^T F damped by this fraction of its mean diagonal.

    None where a group has one output: rows are independent then, and no metric changes what is best for each.
    """
    if metric.shape[1] == 1:
        return None
    metric = metric.double()
    eye = torch.eye(metric.shape[1], dtype=metric.dtype, device=metric.device)
    mean = metric.diagonal(dim1=1, dim2=2).mean()
    metric = metric / mean if mean > 0 else eye.expand_as(metric)
    return torch.linalg.cholesky((1 - damping) * metric + (damping + TINY) * eye).mT


class GradientSums:
    """Sums up what gradients of a layer's output say of its metric."""

    def __init__(self, layer: nn.Module, seed: int):
        self.layer = layer
        self.patches = Patches(layer, NUM_POSITIONS, torch.Generator().manual_seed(seed))
        self.outputs: list[Tensor] = []
        self.moment = SampledMoment(torch.float64)
        self.passed: list[int] = []

    def begin(self, passed: Sequence[int]) -> None:
        """Before a forward pass. passed: numbers of images whose gradients, before these, are another process's."""
        self.outputs.clear()
        self.passed = list(passed)

    def watch(self, layer: nn.Module, args: tuple, output: Tensor) -> None:
        """A hook on the layer's forward. The first layer's output is where the graph of gradients begins."""
        if not output.requires_grad:
            output.requires_grad_()
        self.outputs.append(output)

    @torch.no_grad()
    def add(self, gradients: list[Tensor | None]) -> None:
        """Gradients of a projection at the outputs of the layer's calls; None where it does not depend on one."""
        found = [gradient for gradient in gradients if gradient is not None]
        for size in self.passed:
            for gradient in found:
                self.patches.places_of(gradient, size)
        self.passed = []
        for gradient in found:
            self.moment.add(self.patches.outputs(gradient).unflatten(1, (len(gradient), -1)))

    def value(self) -> Tensor:
        groups = getattr(self.layer, "groups", 1)
        outputs = len(self.layer.weight) // groups
        self.moment.unite(groups, outputs, self.layer.weight.device)
        if not self.moment.num_samples:
            return torch.zeros(groups, outputs, outputs)
        return shrunk(self.moment.mean(), self.moment.sampling_share())
