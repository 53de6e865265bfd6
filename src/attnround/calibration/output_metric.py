"""The metric of a layer's output: how much an error of it moves the network's output.

With g the gradient of a projection of the network's output at the layer's output, at a place of an image,

    G = E[g g^T]                               [O/G, O/G] for each group of a grouped convolution

so that tr(G E[y y^T]) is the mean square change of the projections by small errors y of the layer's output, where these
do not depend on g: the Kronecker factorisation of K-FAC (Martens, Grosse, arXiv 1503.05671). `logits`: projections on
random signs, whose mean square is the squared change of all logits. `fisher`: the gradient of the log-likelihood of a
label drawn from the model's own prediction, whose mean square is the change of the prediction (KL divergence, twice).

G of few images is chance to a part, which is told from how much it differs between images: correlations are shrunk by
the share of their squares that is sampling error (Schaefer, Strimmer, "A Shrinkage Approach to Large-Scale Covariance
Matrix Estimation", Statistical Applications in Genetics and Molecular Biology 4(1), 2005).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnround.calibration.cache import in_batches
from attnround.errors import InputError, check_number
from attnround.graph import class_logits, find_layers, joined
from attnround.graph.kinds import kind_of
from attnround.graph.patches import Patches
from attnround.progress import bar

NUM_POSITIONS = 49  # output positions of an image that enter the metric
BATCH_SIZE = 64
KINDS = ("logits", "fisher")
TINY = 1e-30  # of the metric of an output that nothing depends on


@dataclass(frozen=True)
class OutputMetric:
    """How the metric of outputs is measured.

    kind: `logits` or `fisher`; num_projections: backward passes; num_images: that they go over, the first ones.
    """

    kind: str = "logits"
    num_projections: int = 2
    num_images: int = 1024

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"reconstruction.output_metric={self.kind}: give one of {', '.join(KINDS)}, or none")
        check_number("reconstruction.num_projections", self.num_projections, least=1, whole=True)


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
    device = images.device
    generator = torch.Generator(device).manual_seed(seed)
    sums = {name: GradientSums(model.get_submodule(name), seed) for name in names}
    hooks = [model.get_submodule(name).register_forward_hook(each.watch) for name, each in sums.items()]
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    batches = in_batches(images, BATCH_SIZE)
    progress = bar(len(batches) * num_projections, "output metric", "projection")
    try:
        for batch in batches:
            for each in sums.values():
                each.outputs.clear()
            outputs = class_logits(model, batch) if kind == "fisher" else joined(model(batch))
            for number in range(num_projections if outputs.requires_grad else 0):  # else it depends on no layer
                projected = _projected(outputs, kind, generator)
                watched = [output for each in sums.values() for output in each.outputs]
                gradients = torch.autograd.grad(
                    projected, watched, retain_graph=number + 1 < num_projections, allow_unused=True
                )
                places = iter(gradients)
                for each in sums.values():
                    each.add([next(places) for _ in each.outputs])
                progress.update()
    finally:
        progress.close()
        for hook in hooks:
            hook.remove()
        for parameter, before in wanted.items():
            parameter.requires_grad_(before)
    return {name: each.value() for name, each in sums.items()}


def _projected(outputs: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """The sum over images of a random projection of each one's output [N, *]."""
    if kind == "logits":
        signs = torch.randint(0, 2, outputs.shape, generator=generator, device=outputs.device)
        return (outputs * (2 * signs - 1)).sum()
    labels = torch.multinomial(outputs.detach().softmax(1), 1, generator=generator).flatten()
    return nn.functional.cross_entropy(outputs, labels, reduction="sum")


class GradientSums:
    """Sums up what gradients of a layer's output say of its metric, and how that differs between images."""

    def __init__(self, layer: nn.Module, seed: int):
        self.layer, self.kind = layer, kind_of(layer)
        self.patches = Patches(layer, NUM_POSITIONS, torch.Generator().manual_seed(seed))
        self.outputs: list[Tensor] = []
        self.scale: Tensor | None = None
        self.second: Tensor | float = 0.0
        self.square = self.diagonal_square = 0.0
        self.num_samples = 0

    def watch(self, layer: nn.Module, args: tuple, output: Tensor) -> None:
        """A hook on the layer's forward. The first layer's output is where the graph of gradients begins."""
        if not output.requires_grad:
            output.requires_grad_()
        self.outputs.append(output)

    @torch.no_grad()
    def add(self, gradients: list[Tensor | None]) -> None:
        """Gradients of a projection at the outputs of the layer's calls; None where it does not depend on one.

        An image gives one sample of G, M = X^T X of its rows X at P places. The squares of the samples' entries are
        summed as those of X X^T, [P, P] and of the same norm. Outputs are scaled alike for that: as in the first batch.
        """
        for gradient in gradients:
            if gradient is None:
                continue
            rows = self.patches.outputs(gradient).unflatten(1, (len(gradient), -1))  # [G, N, P, o]
            rows = rows / rows.shape[2] ** 0.5
            if self.scale is None:
                self.scale = rows.square().sum(2, keepdim=True).mean(1, keepdim=True).clamp(min=TINY).rsqrt()
            flat = rows.flatten(1, 2)
            self.second = self.second + flat.mT @ flat
            self.num_samples += len(gradient)
            if rows.shape[3] > 1:
                scaled = rows * self.scale
                self.square += (scaled @ scaled.mT).square().sum().item()
                self.diagonal_square += scaled.square().sum(2).square().sum().item()

    def value(self) -> Tensor:
        groups, outputs = getattr(self.layer, "groups", 1), len(self.layer.weight)
        if self.scale is None:
            return torch.zeros(groups, outputs // groups, outputs // groups)
        mean = self.second / self.num_samples
        scale = self.scale[:, 0, 0]  # [G, o]
        scaled = mean * scale[:, :, None] * scale[:, None, :]
        diagonal = scaled.diagonal(dim1=1, dim2=2).square().sum().item()
        total = scaled.square().sum().item() - diagonal
        squares = (self.square - self.diagonal_square) / self.num_samples
        error = (squares - total) / max(self.num_samples - 1, 1)
        return shrunk(mean, error / total if total > 0 else 1.0)


def shrunk(mean: Tensor, share: float) -> Tensor:
    """A second moment [G, o, o] with its correlations less this share of them."""
    kept = 1 - min(max(share, 0.0), 1.0)
    return kept * mean + (1 - kept) * torch.diag_embed(mean.diagonal(dim1=1, dim2=2))
