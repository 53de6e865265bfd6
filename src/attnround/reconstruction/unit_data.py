"""What the block objective learns from: activations at a unit's input and output, image by image."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from attnround.calibration.cache import ActivationCache, batches, choose_storage, is_channels_last
from attnround.calibration.output_metric import OutputMetric, factor_of, metric_of_channels, surprise
from attnround.errors import InputError
from attnround.graph.segment import output_of, segment
from attnround.graph.trace import grows
from attnround.graph.units import Unit
from attnround.reconstruction.plan import Bench

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UnitData:
    """Activations of N images, [N, *shape] each; the last `num_held_out` images are kept from learning.

    inputs: the unit's input in the float model; quantized: that in the model quantized so far; targets: the float
    unit's output for `inputs`; weights: of the squared output errors, like targets; None weighs all alike. factor:
    F [C, C] of a metric G = F^T F of the output's channels, None: all alike; channel_dim: the output's dimension that
    they are.
    """

    inputs: ActivationCache
    quantized: ActivationCache
    targets: ActivationCache
    weights: ActivationCache | None
    num_held_out: int
    factor: Tensor | None = None
    channel_dim: int = 1

    @property
    def num_learned(self) -> int:
        return len(self.inputs) - self.num_held_out


def gather(unit: Unit, bench: Bench, batch_size: int, cache_mib: float, loss: str) -> UnitData:
    """Run both models up to the unit's input, and the float model through the unit.

    Where later nodes need nothing but the unit's input, the walk goes on from the caches filled here, so that no node
    runs for two units. The quantized input is cached as integer codes where that loses nothing (`lossless_coding`).
    """
    teacher = segment(bench.teacher, unit.start, unit.end)
    alone = bench.walk.is_alone(unit.start)
    consumers = unit.start.users if alone else [node for node in unit.nodes() if unit.start in node.all_input_nodes]
    coding = lossless_coding(
        [bench.student.get_submodule(node.target) if node.op == "call_module" else None for node in consumers]
    )
    caches: dict[str, ActivationCache] = {}
    first, fisher = 0, loss == "fisher"
    values_there = bench.walk.values(unit.start, keep=False if alone else None)
    for size, (x, x_quantized) in zip(bench.walk.sizes, values_there, strict=True):
        with torch.no_grad():
            batch = {"inputs": x, "quantized": x_quantized, "targets": teacher(x)}
        if not (is_by_images(unit.start, x, size) and is_by_images(unit.end, batch["targets"], size)):
            raise InputError(
                f"{unit.name}: the first dimension of its values is not that of the images, which the block objective "
                "draws from: give reconstruction=layer (or batch_first=True to torch's attention)"
            )
        caches = caches or allocate(unit.name, bench.num_images, batch, coding, cache_mib, fisher)
        for key, values in batch.items():
            if not values.isfinite().all():
                raise InputError(f"{unit.name}: its {key} hold NaN or infinity; the checkpoint or an image is broken")
            caches[key].write(first, values)
        first += len(x)
    if alone and caches["inputs"].storage != "bfloat16":  # a resumed run would not go on from the same rounded values
        bench.walk.adopt(unit.start, caches["inputs"], caches["quantized"])
    weights = fisher_weights(unit, bench, caches["targets"], batch_size) if fisher else None
    dim = channel_dim(caches["targets"].data.shape, len(bench.teacher.get_submodule(unit.layers[-1]).weight))
    data = UnitData(**caches, weights=weights, num_held_out=bench.num_held_out, channel_dim=dim)
    return in_metric_of_logits(data, unit, bench, batch_size) if loss == "logits" else data


def is_by_images(node: fx.Node, value: Tensor, num_images: int) -> bool:
    """Whether a node's value has a part for each image, one behind the other."""
    return len(value) == num_images and ("shape" not in node.meta or grows(node))


def allocate(
    name: str, num_images: int, batch: dict[str, Tensor], coding: dict[str, Callable], cache_mib: float, fisher: bool
) -> dict[str, ActivationCache]:
    """Empty caches for all images of what `batch` holds of some, in the first storage that fits into `cache_mib`.

    The log names the storage; that it is float32 is a line for debugging only.
    """
    num_inputs, num_outputs = 1.25 if coding else 2, 2 if fisher else 1  # a code is a quarter of a float32
    sizes = batch["inputs"][0].numel(), batch["targets"][0].numel()
    num_values = int(num_images * (num_inputs * sizes[0] + num_outputs * sizes[1]))
    storage = choose_storage(num_values, cache_mib)
    level = logging.INFO if storage != "float32" else logging.DEBUG
    codes = ", the quantized input as integer codes" if coding else ""
    log.log(level, "  %s: %.0f MiB of activations as %s%s", name, num_values * 4 / 2**20, storage, codes)
    kinds: dict[str, dict[str, Any]] = {key: {"storage": storage} for key in batch}
    if coding:
        kinds["quantized"] = {"storage": "codes", **coding}
    return {
        key: ActivationCache(
            num_images, values.shape[1:], device=values.device, last=is_channels_last(values), **kinds[key]
        )
        for key, values in batch.items()
    }


def lossless_coding(consumers: Sequence[nn.Module | None]) -> dict[str, Callable[[Tensor], Tensor]]:
    """`encode` to integer codes and `decode` back for an activation; empty where that would lose something.

    consumers: the modules that take the activation as their input, None for operations that are no module. Codes are
    lossless if every consumer applies the same fixed quantizer without dropping.
    """
    quantizers = [getattr(consumer, "activation", None) for consumer in consumers]
    if not quantizers or any(each is None or each.learned or each.drop for each in quantizers):
        return {}
    kinds = {(each.scale.item(), each.zero_point, each.bit_width) for each in quantizers}
    return {"encode": quantizers[0].codes, "decode": quantizers[0].decode} if len(kinds) == 1 else {}


def fisher_weights(unit: Unit, bench: Bench, targets: ActivationCache, batch_size: int) -> ActivationCache:
    """Squares of the gradient of the log-likelihood at the unit's output, scaled to a mean of 1, [N, *output].

    The label of an image is drawn from what the float model predicts for it, so no labels are needed, and the mean of
    the squares over draws is the diagonal of the Fisher information. There is one draw an image.
    """
    rest = rest_of(unit, bench)
    cache = ActivationCache(len(targets), targets.data.shape[1:], targets.storage, targets.device)
    total = 0.0
    for images in batches(0, len(targets), batch_size):
        y = targets[images].requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(surprise(rest(y), bench.generator), y)
        cache.write(images.start, gradient.square())
        total += gradient.square().double().mean().item() * len(y)
    mean = total / len(targets)
    cache.factor = 1 / mean if mean > 0 else 1.0
    return cache


def in_metric_of_logits(data: UnitData, unit: Unit, bench: Bench, batch_size: int) -> UnitData:
    """The same with the metric of the unit's output: what its errors do to the logits."""
    targets, metric = data.targets, OutputMetric()
    values = (targets[images] for images in batches(0, min(len(targets), metric.num_images), batch_size))
    found = metric_of_channels(metric, rest_of(unit, bench), values, data.channel_dim, bench.generator)
    factor = factor_of(found)
    return dataclasses.replace(data, factor=None if factor is None else factor[0].float())


def channel_dim(shape: torch.Size, num_outputs: int) -> int:
    """The dimension of a value's channels: the only one that is as long as the last layer has outputs.

    Where several or none are, it is the first behind the images in [N, C, H, W], and the last of tokens.

    >>> channel_dim(torch.Size([8, 7, 7, 96]), 96), channel_dim(torch.Size([8, 32, 7, 7]), 96)
    (3, 1)
    """
    fitting = [dim for dim in range(1, len(shape)) if shape[dim] == num_outputs]
    return fitting[0] if len(fitting) == 1 else 1 if len(shape) == 4 else len(shape) - 1


def rest_of(unit: Unit, bench: Bench) -> nn.Module:
    """The float network from the unit's output on. Raises InputError where that needs more than this output."""
    if not bench.walk.is_alone(unit.end):
        raise InputError(
            f"{unit.name}: what its errors do to the logits can be measured of a unit whose output is all that the "
            "network goes on from; give reconstruction.granularity=block or network, or reconstruction.loss=mse"
        )
    return segment(bench.teacher, unit.end, output_of(bench.graph))
