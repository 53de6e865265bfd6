"""What a block learns from: its input in both models, its output in the float one, its loss weights, image by image."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnround.errors import InputError
from attnround.graph.segment import output_of, segment
from attnround.graph.units import Unit
from attnround.reconstruction.cache import ActivationCache, batches, choose_storage
from attnround.reconstruction.plan import Bench

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Captured:
    """For N images, the last `num_held_out` kept from learning; weights: of the squared errors, None for all alike."""

    inputs: ActivationCache
    quantized: ActivationCache
    targets: ActivationCache
    weights: ActivationCache | None
    num_held_out: int

    @property
    def num_learned(self) -> int:
        return len(self.inputs) - self.num_held_out


def capture(unit: Unit, bench: Bench, batch_size: int, cache_mib: float, fisher: bool) -> Captured:
    """Run both models as far as the unit's input, and the float one through the unit.

    The walk goes on from what is captured where nothing else is needed later, so that no node runs for two units. An
    input that all that take it quantize alike is kept as their codes.
    """
    teacher = segment(bench.teacher, unit.start, unit.end)
    alone = bench.walk.is_alone(unit.start)
    takers = unit.start.users if alone else [node for node in unit.nodes() if unit.start in node.all_input_nodes]
    coding = shared_coding([bench.student.get_submodule(n.target) if n.op == "call_module" else None for n in takers])
    caches: dict[str, ActivationCache] = {}
    first = 0
    for x, x_quantized in bench.walk.values(unit.start, keep=False if alone else None):
        with torch.no_grad():
            batch = {"inputs": x, "quantized": x_quantized, "targets": teacher(x)}
        caches = caches or allocate(unit.name, bench.num_images, batch, coding, cache_mib, fisher)
        for key, values in batch.items():
            if not values.isfinite().all():
                raise InputError(f"{unit.name}: its {key} hold NaN or infinity; the checkpoint or an image is broken")
            caches[key].write(first, values)
        first += len(x)
    if alone and caches["inputs"].storage != "bfloat16":  # rounded, a resumed run would go on from other values
        bench.walk.adopt(unit.start, caches["inputs"], caches["quantized"])
    weights = fisher_weights(unit, bench, caches["targets"], batch_size) if fisher else None
    return Captured(**caches, weights=weights, num_held_out=bench.num_held_out)


def allocate(
    name: str, num_images: int, batch: dict[str, Tensor], coding: dict[str, Callable], cache_mib: float, fisher: bool
) -> dict[str, ActivationCache]:
    """Caches for values like these of all images, in the storage that the budget holds; said where it isn't float32."""
    num_inputs, num_outputs = 1.25 if coding else 2, 2 if fisher else 1  # a code is a quarter of a float32
    sizes = batch["inputs"][0].numel(), batch["targets"][0].numel()
    num_values = int(num_images * (num_inputs * sizes[0] + num_outputs * sizes[1]))
    storage = choose_storage(num_values, cache_mib)
    level = logging.INFO if storage != "float32" else logging.DEBUG
    codes = ", the quantized input as integer codes" if coding else ""
    log.log(level, "  %s: %.0f MiB of activations as %s%s", name, num_values * 4 / 2**20, storage, codes)
    kinds = {key: {"storage": storage} for key in batch}
    if coding:
        kinds["quantized"] = {"storage": "codes", **coding}
    return {
        key: ActivationCache(num_images, values.shape[1:], device=values.device, **kinds[key])
        for key, values in batch.items()
    }


def shared_coding(takers: Sequence[nn.Module | None]) -> dict[str, Callable[[Tensor], Tensor]]:
    """How to encode and decode an input so that these modules see no difference; nothing where one would.

    None is seen by those that all quantize it, alike, on steps that stay as they are, and drop nothing.
    """
    quantizers = [getattr(taker, "activation", None) for taker in takers]
    if not quantizers or any(each is None or each.learned or each.drop for each in quantizers):
        return {}
    kinds = {(each.scale.item(), each.zero_point, each.bit_width) for each in quantizers}
    return {"encode": quantizers[0].codes, "decode": quantizers[0].decode} if len(kinds) == 1 else {}


def fisher_weights(unit: Unit, bench: Bench, targets: ActivationCache, batch_size: int) -> ActivationCache:
    """Squares of the gradient of the log-likelihood at the unit's output, of mean 1, [N, *output].

    The label is drawn from what the float model itself predicts, which makes it the Fisher information's diagonal (with
    one draw an image), and asks for no labels.
    """
    if not bench.walk.is_alone(unit.end):
        raise InputError(
            f"{unit.name}: the Fisher weights need a unit whose output is all that the network goes on from; "
            "give reconstruction.granularity=block or network, or reconstruction.loss=mse"
        )
    cache = ActivationCache(len(targets), targets.data.shape[1:], targets.storage, targets.device)
    rest = segment(bench.teacher, unit.end, output_of(bench.graph))
    total = 0.0
    for images in batches(0, len(targets), batch_size):
        y = targets[images].requires_grad_()
        with torch.enable_grad():
            logits = rest(y)
            chance = logits.detach().softmax(1)
            labels = torch.multinomial(chance, 1, generator=bench.generator).flatten()
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, y)
        cache.write(images.start, gradient.square())
        total += gradient.square().double().mean().item() * len(y)
    mean = total / len(targets)
    cache.factor = 1 / mean if mean > 0 else 1.0
    return cache
