"""A quantized layer in exact integer arithmetic: sums of products of integers, scaled once at the end.

    acc[o] = sum_j (q_oj - z_o) (a_j - z)        y[o] = scale_o scale acc[o] + bias_o

with levels q, their zero point z_o, input codes a and theirs z. The padding of a convolution is the code z, which adds
nothing. How wide acc must be follows from the weights: no partial sum, in any order, exceeds
bound = max_o sum_j |q_oj - z_o| * max |a - z|.

The products are carried by floating-point matrix products, which are many times faster than integer ones on a CPU, and
exact here: in float32 where bound < 2^24, else in float64 where bound < 2^53, every product and every partial sum is an
integer that the type holds exactly, so that nothing is ever rounded, whatever the order. Convolutions are unfolded
first, as a library's own algorithm (Winograd, FFT) may compute with other numbers. `witness` repeats an input in
torch's integer types, int32 or int64 as bound asks, to confirm it on the machine at hand.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attnround.graph.kinds import grouped_rows, kind_of
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.grid import per_channel
from attnround.quantization.layers import QuantizedLayer, quantized_edges, quantized_layers


class IntegerEdge(nn.Module):
    """A value between layers as codes and back. watch: as of `IntegerLayer`."""

    def __init__(self, activation: ActivationQuantizer):
        super().__init__()
        self.activation = activation
        self.watch: Callable[[Tensor, Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        codes = self.activation.codes(x)
        return self.activation.decode(codes if self.watch is None else self.watch(x, codes)).to(x.dtype)


class IntegerLayer(nn.Module):
    """Takes and gives what the quantized layer does. A float input is multiplied by the integers in float64 instead.

    bound: that of the sums, None for a float input; accumulator: the integer type that holds them.
    watch: if set, called with the input x and its codes; the layer goes on with the codes that it gives back.
    """

    def __init__(self, quantized: QuantizedLayer):
        super().__init__()
        self.inner, self.kind = quantized.layer, kind_of(quantized.layer)
        self.activation = quantized.activation
        self.watch: Callable[[Tensor, Tensor], Tensor] | None = None
        levels = quantized.levels.long()
        weight = levels - per_channel(quantized.zero_point.long(), levels)
        self.rows = grouped_rows(self.inner, weight)  # [G, O/G, n]
        self.scale = quantized.scale.detach().double()
        self.bound, self.accumulator, carrier = None, None, torch.float64
        if self.activation is not None:
            self.scale = self.scale * self.activation.scale.detach().double()
            largest = max(map(abs, self.activation.levels))
            self.bound = largest * int(weight.abs().flatten(1).sum(1).max())
            self.accumulator = torch.int32 if self.bound < 2**31 else torch.int64
            carrier = torch.float32 if self.bound < 2**24 else torch.float64
        self.carried = self.rows.to(carrier)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as QuantizedLayer)
        if self.activation is None:
            return self._scaled(self._product(self.carried, input.to(self.carried.dtype)), input)
        codes = self.activation.codes(input)
        codes = codes if self.watch is None else self.watch(input, codes)
        return self._scaled(self.accumulate(codes), input)

    def accumulate(self, codes: Tensor) -> Tensor:
        """The exact sums [N, O, H', W'] or [N, *tokens, O] for uint8 codes of the layer's input."""
        return self._product(self.carried, self._centred(codes))

    def witness(self, codes: Tensor) -> bool:
        """Whether integer arithmetic in the accumulator's type gives the sums that `accumulate` does."""
        exact = self._product(self.rows.to(self.accumulator), self._centred(codes))
        return torch.equal(exact, self.accumulate(codes).to(self.accumulator))

    def _centred(self, codes: Tensor) -> Tensor:
        return codes.to(self.carried.dtype).add_(self.activation.levels[0])

    def _product(self, rows: Tensor, x: Tensor) -> Tensor:
        return self.kind.product(self.inner, rows, x)

    def _scaled(self, sums: Tensor, x: Tensor) -> Tensor:
        scale, bias = (self.kind.per_output(each) for each in (self.scale, self.inner.bias.detach().double()))
        return (sums.double() * scale + bias).to(x.dtype)


def integer_model(model: nn.Module) -> nn.Module:
    """A copy of a quantized model whose quantized layers and edges are integer ones."""
    model = copy.deepcopy(model)
    for name, activation in quantized_edges(model).items():
        model.set_submodule(name, IntegerEdge(activation))
    for name, layer in quantized_layers(model).items():
        model.set_submodule(name, IntegerLayer(layer))
    return model
