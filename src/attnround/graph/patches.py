"""A seeded sample of the columns of a layer's input that its weight rows multiply."""

import math

import torch
from torch import Tensor, nn

from attnround.graph.kinds import kind_of


class Patches:
    """Draws the same places of several inputs: at most `num_positions` places of each image's output, seeded.

    Columns are [G, N*P, n], as `Kind.columns` says.
    """

    def __init__(self, layer: nn.Module, num_positions: int, generator: torch.Generator):
        self.layer, self.kind = layer, kind_of(layer)
        self.num_positions = num_positions
        self.generator = generator
        self.num_available: int | None = None  # places of the last images seen
        self.passed: list[int] = []

    def draw(self, *inputs: Tensor, residual: Tensor | None = None) -> list[Tensor]:
        """The columns of each input; then, of a value of the output's shape, its rows [G, N*P, O/G]."""
        num_available = math.prod(self.kind.out_sizes(self.layer, inputs[0]))
        places = self.places(len(inputs[0]), num_available)
        drawn = [self.kind.columns(self.layer, x, places) for x in inputs]
        return drawn if residual is None else [*drawn, self.kind.outputs_at(self.layer, residual, places)]

    def outputs(self, y: Tensor) -> Tensor:
        """The rows [G, N*P, O/G] of a value of the output's shape."""
        return self.kind.outputs_at(self.layer, y, self.places_of(y, len(y)))

    def places_of(self, y: Tensor, num_images: int) -> Tensor:
        """[N, P] places of so many images with values of the output's shape as `y` has them."""
        return self.places(num_images, y[0].numel() // len(self.layer.weight))

    def skip(self, num_images: int) -> None:
        """Leave out so many images: those after them have the places that they have after these."""
        if self.num_available is None:  # it takes images to know what they draw
            self.passed.append(num_images)
        else:
            self.places(num_images, self.num_available)

    def places(self, num_images: int, num_available: int) -> Tensor:
        """[N, P] places of each image, drawn without replacement; all of them where there are few."""
        self.num_available = num_available
        while self.passed:
            self.places(self.passed.pop(0), num_available)
        if num_available <= self.num_positions:
            return torch.arange(num_available).expand(num_images, -1)
        keys = torch.rand(num_images, num_available, generator=self.generator)
        return keys.topk(self.num_positions, dim=1).indices
