"""What ties between two codes explain of a difference from the simulation, found on the simulation itself."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attnround.deploy.comparison import Batches, Comparison, compare
from attnround.quantization.activation import ActivationQuantizer

ROUNDING = 5e-7  # relative, rms: eight units in the last place, about what another order of float sums makes
DRAWS = 4  # of that noise, at least: of few images most draws may take no code to a tie's other side
IMAGES = 256  # that all draws together have, at least


class Ties:
    """How far the simulation is from itself where floats are rounded otherwise before they are quantized.

    That alone takes codes to the other side of ties, each a whole step of the next layer, and in deep networks or at
    few bits the class of an image with them: no runtime can be asked to follow nearer. model: the simulation; batches:
    gives the images that others were compared on, and is called only where one of them is in doubt. draws: what was
    found, with other noise each; none before that.
    """

    def __init__(self, model: nn.Module, batches: Callable[[], Batches]):
        self.model, self.batches = model, batches
        self.draws: list[Comparison] = []

    @property
    def itself(self) -> Comparison | None:
        """The draw that is furthest from the simulation."""
        return min(self.draws, key=lambda each: each.sqnr_db, default=None)

    def fault(self, found: Comparison, quantized_inputs: bool, by_class: bool = True) -> str | None:
        """`Comparison.fault`, but for what ties explain."""
        fault = found.fault(quantized_inputs, by_class)
        if not fault or not quantized_inputs or not found.is_finite:
            return fault
        if not self.draws:
            num_draws = max(DRAWS, math.ceil(IMAGES / found.images))
            draws = [_rounded_otherwise(self.model, seed) for seed in range(num_draws)]
            self.draws = compare(self.model, draws, self.batches())
        fault, itself = found.fault(quantized_inputs, by_class, self.draws), self.itself
        if not fault or not itself or math.isinf(itself.sqnr_db):
            return fault
        return (
            f"{fault}; it is {found.sqnr_db:.1f} dB from the simulation, which float rounding leaves "
            f"{itself.sqnr_db:.1f} dB from itself, of the same class on {itself.agreement:.2f} %"
        )


def _rounded_otherwise(model: nn.Module, seed: int) -> Callable[[Tensor], Tensor]:
    """The same model, with noise of `ROUNDING` in all that it quantizes; the same noise whenever it is made."""
    quantizers = [each for each in model.modules() if isinstance(each, ActivationQuantizer)]
    generator = torch.Generator().manual_seed(seed)

    def with_noise(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        value, *others = inputs
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device)
        return value * (1 + ROUNDING * noise), *others

    def run(images: Tensor) -> Tensor:
        hooks = [each.register_forward_pre_hook(with_noise) for each in quantizers]
        try:
            return model(images)
        finally:
            for hook in hooks:
                hook.remove()

    return run
