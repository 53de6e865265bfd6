"""A layer whose weight is integers on a grid, its input too where that has a quantizer; and values between layers."""

import torch
from torch import Tensor, nn

from attnround.errors import InputError
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.grid import Grid, dequantize, per_channel, quantize
from attnround.quantization.shapes import Float, Real

LARGEST_BIAS = 2**29  # steps: a quarter of what int32 holds, which holds the sums on top


class QuantizedLayer(nn.Module):
    """A Conv2d or Linear with weight = scale * (levels - zero_point).

    The integer levels decide: `bake` takes them and derives the inner layer's float weight. A new layer has the levels
    nearest to its float weight.

    layer: the inner module, which keeps geometry and padding; levels: int [O, *rest]; scale, zero_point: [O];
    activation: the quantizer of the input, None at first, when the input stays float; rounds_bias: whether what is
    baked has a bias of whole steps of the layer's sums, as kernels that add it as an integer have it. Such a step is
    the input's scale times the output channel's.
    """

    scale: Tensor
    zero_point: Tensor
    levels: Tensor

    def __init__(self, layer: nn.Module, grid: Grid, scale: Float[Tensor, " O"], zero_point: Float[Tensor, " O"]):
        super().__init__()
        self.layer = layer
        layer.weight.requires_grad_(False)  # it follows from the levels
        self.activation: ActivationQuantizer | None = None
        self.rounds_bias = False
        self.grid = grid
        if layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(layer.weight.shape[0]))
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.register_buffer("levels", quantize(layer.weight.detach(), scale, zero_point, grid).to(grid.dtype))
        self.bake(self.levels)

    @torch.no_grad()
    def bake(self, levels: Real[Tensor, " O *rest"], bias: Float[Tensor, " O"] | None = None) -> None:
        """Take these levels, and this bias if one is given as `take_bias` does, and rebuild the float weight from them.

        Raises InputError where a rounding method gives what is no level of the grid.
        """
        if levels.is_floating_point():
            self._check(levels)
        self.levels.copy_(levels)
        self.take_bias(self.layer.bias if bias is None else bias)
        self.layer.weight.copy_(dequantize(self.levels, self.scale, self.zero_point))

    @torch.no_grad()
    def take_bias(self, bias: Float[Tensor, " O"]) -> None:
        """Take this bias, where kernels add integers in whole steps of the sums.

        Of a channel without weights, which any scale leaves zero, these are as small as the bias allows.
        """
        self.layer.bias.copy_(bias)
        if not self.rounds_bias:
            return
        wanted, of_input = self.layer.bias.double(), self.activation.scale.double()
        empty = (self.levels == per_channel(self.zero_point, self.levels)).flatten(1).all(1) & (wanted != 0)
        self.scale.copy_(torch.where(empty, wanted.abs() / (LARGEST_BIAS * of_input), self.scale))
        step = self.scale.double() * of_input
        self.layer.bias.copy_(wanted.div(step).round() * step)

    def with_room(self, scale: Float[Tensor, " O"], bias: Float[Tensor, " O"]) -> Float[Tensor, " O"]:
        """The scales, raised where this bias is more than `LARGEST_BIAS` steps of the sums, which int32 may not hold.

        So is a channel whose weights are next to nothing beside its bias, as in pruned networks. To a linear layer's
        products runtimes add floats.
        """
        if self.activation is None or self.layer.weight.ndim == 2:
            return scale
        return torch.maximum(scale, bias.detach().abs() / (LARGEST_BIAS * self.activation.scale.detach()))

    def _check(self, levels: Tensor) -> None:
        low, high = self.grid.qmin, self.grid.qmax
        if not bool(((levels >= low) & (levels <= high) & (levels == levels.round())).all()):
            least, most = levels.min().item(), levels.max().item()
            raise InputError(
                f"the rounding method decides for values of {least:g} to {most:g}: give whole levels from {low} to "
                f"{high}, as clamp(round(...)) does"
            )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name; some models call it by keyword)
        return self.layer(input if self.activation is None else self.activation(input))

    def extra_repr(self) -> str:
        return f"bit_width={self.grid.bit_width}, symmetric={self.grid.symmetric}"


class Edge(nn.Module):
    """A place between layers where a value can be quantized; it is given through as it is while `activation` is None.

    The layers that take the value have the same quantizer, the object itself, where their inputs have its bits.
    of_product: whether a product of two values takes it, which then has the bits of layers' inputs.
    """

    def __init__(self, of_product: bool = False) -> None:
        super().__init__()
        self.of_product = of_product
        self.activation: ActivationQuantizer | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.activation is None else self.activation(x)


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantized layers of a model by name, in the order of its modules."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)}


def quantized_edges(model: nn.Module) -> dict[str, ActivationQuantizer]:
    """The quantizers of a model's values between layers by name, in the order of its modules."""
    edges = {name: module for name, module in model.named_modules() if isinstance(module, Edge)}
    return {name: edge.activation for name, edge in edges.items() if edge.activation is not None}


def float_state(model: nn.Module) -> dict[str, Tensor]:
    """The part of a model's state outside its quantized layers: norms, embeddings, tokens and the like.

    A batch norm's count of batches is left out, as evaluation does not use it.
    """
    inside = tuple(f"{name}." for name in (*quantized_layers(model), *quantized_edges(model)))
    return {
        key: value.detach()
        for key, value in model.state_dict().items()
        if not key.startswith(inside) and not key.endswith("num_batches_tracked")
    }
