"""The problem that a float model poses to a bit allocator: its layers, and measurements on calibration images."""

from collections.abc import Callable
from functools import cache

from torch import Tensor

from attnround.bits import Layer, Problem
from attnround.bits.allocation import FLOAT_BITS
from attnround.calibration.output_metric import OutputMetric, measure
from attnround.calibration.sensitivity import fisher_traces, input_covariances, joint_moments, logit_noise, logits
from attnround.graph.capture import Captured
from attnround.graph.costs import count_macs, count_places, residual_groups
from attnround.graph.layers import find_layers
from attnround.quantization.layers import float_state
from attnround.quantization.observer import ClipSearch
from attnround.quantization.storage import RANGE_BYTES, float_bytes

NUM_IMAGES = 256  # that are measured on: more hardly change the order of the layers
NUM_OF_ENERGY = 64  # that the energy of the logits is measured on; lite0's has a deviation of 27 % an image, so 0.15 dB


def bit_problem(
    model: Captured,
    images: Tensor,
    observer: ClipSearch,
    input_bits: dict[str, int],
    unfolded: dict[str, Tensor],
    seed: int,
    output_metrics: Callable[[str], dict[str, Tensor]] | None = None,
) -> Problem:
    """The problem of a folded float model on the CPU; images [N, C, H, W] of the calibration set.

    input_bits: layer or edge -> bits of its input, where that is quantized; unfolded: layer name -> its weight before
    the batch norms were folded in; output_metrics: kind -> layer name -> metric of its outputs, a mean over places,
    where they are measured already or elsewhere. What takes time is measured when it is first asked for.
    """
    weights = find_layers(model)
    names = list(weights)
    macs = count_macs(model, names, images[:1])
    inside = tuple(f"{name}." for name in names)
    others = {key: value for key, value in float_state(model).items() if not key.startswith(inside)}
    shown, few = images[:NUM_IMAGES], images[:NUM_OF_ENERGY]

    covariances = cache(lambda: input_covariances(model, names, shown, seed))
    reference = cache(lambda: logits(model, shown))

    def summed_metrics(kind: str) -> dict[str, Tensor]:
        places = count_places(model, names, shown[:1])
        found = output_metrics(kind) if output_metrics else measure(OutputMetric(kind), model, images, seed)
        return {name: places[name] * metric for name, metric in found.items()}

    def joint(kind: str) -> dict[str, tuple[Tensor, Tensor]]:
        half = len(shown) // 2
        inputs = input_covariances(model, names, shown[:half] if half else shown, seed, with_error=False)
        means = {name: each.mean for name, each in inputs.items()}
        moments = joint_moments(model, means, shown[half:], kind, seed)
        return {name: (inputs[name].second, moments[name]) for name in names}

    return Problem(
        layers=[
            Layer(
                name,
                weight,
                unfolded=unfolded.get(name),
                macs=macs[name],
                input_bits=input_bits.get(name, FLOAT_BITS),
            )
            for name, weight in weights.items()
        ],
        observer=observer,
        other_bits=8 * (float_bytes(others) + RANGE_BYTES * len(input_bits.keys() - weights.keys())),
        sums=cache(lambda: residual_groups(model)),
        joint_moments=cache(joint),
        second_moments=cache(lambda: {name: each.second for name, each in covariances().items()}),
        shrunk_moments=cache(lambda: {name: each.shrunk() for name, each in covariances().items()}),
        output_metrics=cache(summed_metrics),
        logit_energy=cache(lambda: _finite(logits(model, few)).double().square().sum().item() / len(few)),
        fisher_traces=lambda num_probes: fisher_traces(model, names, shown, num_probes, seed),
        logit_noise=lambda name, weight: logit_noise(model, name, weight, shown, reference()),
    )


def _finite(values: Tensor) -> Tensor:
    """Zero where a class is masked, as with minus infinity."""
    return values.masked_fill(values.isinf(), 0)
