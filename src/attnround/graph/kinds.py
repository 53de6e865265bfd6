"""All that is particular to a kind of layer, a class a kind: a new kind is one more here, and a line in KINDS.

A layer of any kind is a matrix product, group by group. Its weight is [O, *rest] with the output channels first, for
transposed convolutions too. A row of n = rest.numel() weights meets a column of n inputs at each place of the output:
a pixel of a convolution's output, a token of a linear layer's.
"""

import math
from abc import ABC, abstractmethod
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

Model = TypeVar("Model", bound=nn.Module)

aten = torch.ops.aten


class TransposedConv(nn.Module):
    """A transposed convolution of 1 to 3 dimensions with the weight [O, C/groups, *kernel_size].

    An output channel is a row of it, as in every other kind; torch's is [C, O/groups, *kernel_size]. Arguments as of
    nn.ConvTranspose2d.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...] = (1,),
        padding: tuple[int, ...] = (0,),
        output_padding: tuple[int, ...] = (0,),
        groups: int = 1,
        dilation: tuple[int, ...] = (1,),
        bias: bool = True,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = tuple(kernel_size)
        dims = len(self.kernel_size)
        self.stride, self.padding, self.output_padding, self.dilation = (
            tuple(each) * (dims if len(each) == 1 else 1) for each in (stride, padding, output_padding, dilation)
        )
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel_size, device=device))
        nn.init.kaiming_uniform_(self.weight, 5**0.5)  # as torch's own convolutions
        self.bias = nn.Parameter(torch.zeros(out_channels, device=device)) if bias else None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        convolve = getattr(functional, f"conv_transpose{len(self.kernel_size)}d")
        weight = swap_channels(self.weight, self.groups)
        return convolve(
            input, weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"


def swap_channels(weight: Tensor, groups: int) -> Tensor:
    """A transposed convolution's weight from torch's order [C, O/groups, *k] to [O, C/groups, *k], and back."""
    if groups == 1:
        return weight.transpose(0, 1)
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


class Kind(ABC):
    """What the project asks of a layer of one kind.

    name: as reports have it; native: torch's own class; operations: of torch, which become such a layer when a model is
    captured; module: the layer's class in a captured model.
    """

    name: str
    native: type[nn.Module]
    operations: tuple[torch._ops.OpOverload, ...]
    module: type[nn.Module]

    @abstractmethod
    def build(self, weight: Tensor, bias: Tensor | None, **geometry: object) -> nn.Module:
        """A layer with these values; weight: as torch's operation has it; geometry: the operation's other arguments."""

    @abstractmethod
    def out_sizes(self, layer: nn.Module, x: Tensor) -> tuple[int, ...]:
        """Sizes of the output's places for an input x: (), (tokens,), (height, width), ..."""

    @abstractmethod
    def columns(self, layer: nn.Module, x: Tensor, places: Tensor) -> Tensor:
        """[G, N*P, n]: what meets a row at P places [N, P] of each image's output, counted row by row."""

    @abstractmethod
    def outputs_at(self, layer: nn.Module, y: Tensor, places: Tensor) -> Tensor:
        """[G, N*P, O/G]: the values of an output y at P places [N, P] of each image, counted row by row."""

    @abstractmethod
    def summed(self, layer: nn.Module, y: Tensor) -> Tensor:
        """[G, O/G]: an output y summed over all places of all images."""

    @abstractmethod
    def assembled(self, sums: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """The output of these sizes from sums [N, P, O] at all its places."""

    @abstractmethod
    def per_output(self, values: Tensor) -> Tensor:
        """Values [O] in a shape that meets the output's channels."""

    @abstractmethod
    def norm(self, num_channels: int, momentum: float | None) -> _BatchNorm:
        """A batch norm over the output's channels."""

    def macs(self, layer: nn.Module, x: Tensor, y: Tensor) -> int:
        """Multiply-accumulates for the input x with the output y, of one image, wherever its dimensions have it."""
        return y.numel() * layer.weight[0].numel()

    def product(self, layer: nn.Module, rows: Tensor, x: Tensor) -> Tensor:
        """The layer's output without bias, for rows [G, O/G, n] of weights, in their type."""
        sizes = self.out_sizes(layer, x)
        places = torch.arange(math.prod(sizes)).expand(len(x), -1)
        sums = self.columns(layer, x, places).to(rows.dtype) @ rows.mT  # [G, N*P, O/G]
        return self.assembled(sums.transpose(0, 1).reshape(*places.shape, -1), sizes)


class Linear(Kind):
    """Of the last dimension of [N, *tokens, n]: a place is a token."""

    name = "Linear"
    native = module = nn.Linear
    operations = (aten.linear.default,)

    def build(self, weight: Tensor, bias: Tensor | None, **geometry: object) -> nn.Module:
        outputs, inputs = weight.shape
        layer = nn.Linear(inputs, outputs, bias is not None, device=torch.device("meta"))
        return _with_values(layer, weight, bias)

    def out_sizes(self, layer: nn.Module, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape[1:-1])

    def columns(self, layer: nn.Module, x: Tensor, places: Tensor) -> Tensor:
        tokens = x.reshape(len(x), -1, x.shape[-1])
        return tokens[torch.arange(len(x))[:, None], places].flatten(0, 1)[None]

    def outputs_at(self, layer: nn.Module, y: Tensor, places: Tensor) -> Tensor:
        return self.columns(layer, y, places)

    def summed(self, layer: nn.Module, y: Tensor) -> Tensor:
        return y.flatten(0, -2).sum(0)[None]

    def assembled(self, sums: Tensor, sizes: tuple[int, ...]) -> Tensor:
        return sums.reshape(len(sums), *sizes, sums.shape[-1])

    def per_output(self, values: Tensor) -> Tensor:
        return values

    def norm(self, num_channels: int, momentum: float | None) -> _BatchNorm:
        return TokenNorm(num_channels, momentum=momentum)


class TokenNorm(nn.BatchNorm1d):
    """A batch norm over the last dimension of [N, *tokens, C]."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        return super().forward(input.flatten(0, -2)).reshape(input.shape)


class Convolution(Kind):
    """Over 1 to 3 dimensions."""

    def __init__(self, dims: int):
        self.dims, self.name = dims, f"Conv{dims}d"
        self.native = self.module = getattr(nn, self.name)
        operation = getattr(aten, f"conv{dims}d")
        self.operations = (operation.default, operation.padding)

    def build(self, weight: Tensor, bias: Tensor | None, **geometry: object) -> nn.Module:
        geometry = _as_tuples(geometry)
        outputs, inputs, *kernel = weight.shape
        inputs *= geometry.get("groups", 1)
        layer = self.module(
            inputs, outputs, tuple(kernel), bias=bias is not None, device=torch.device("meta"), **geometry
        )
        return _with_values(layer, weight, bias)

    def out_sizes(self, layer: nn.Module, x: Tensor) -> tuple[int, ...]:
        sizes = zip(x.shape[2:], margins(layer), layer.kernel_size, layer.stride, layer.dilation, strict=True)
        return tuple((size + sum(margin) - d * (k - 1) - 1) // s + 1 for size, margin, k, s, d in sizes)

    def columns(self, layer: nn.Module, x: Tensor, places: Tensor) -> Tensor:
        sizes = self.out_sizes(layer, x)
        x = self._spread(layer, x)
        at = torch.zeros(*places.shape, 1, dtype=torch.long)  # [N, P, taps]: which pixel a tap of a place reads
        inside = torch.ones_like(at, dtype=torch.bool)  # not in the padding
        for dim, size in enumerate(x.shape[2:]):
            along = places // math.prod(sizes[dim + 1 :]) % sizes[dim] * self._stride(layer, dim)
            along = along[..., None, None] + (self._taps(layer, dim) - self._before(layer, dim))
            at = (at[..., :, None] * size + along.clamp(0, size - 1)).flatten(2)
            inside = (inside[..., :, None] & (along >= 0) & (along < size)).flatten(2)
        pixels = x.movedim(1, -1).flatten(1, -2)  # channels last: a gather copies whole pixels
        at = at.flatten(1) + pixels.shape[1] * torch.arange(len(x))[:, None]
        pixels = pixels.flatten(0, 1).index_select(0, at.flatten().to(x.device))  # [N*P*taps, C]
        outside = inside.logical_not_().flatten().nonzero().flatten()
        if len(outside):
            pixels.index_fill_(0, outside.to(x.device), 0)
        if layer.groups == pixels.shape[1]:
            return pixels.mT.contiguous().unflatten(1, (places.numel(), -1))  # as below, several times faster
        pixels = pixels.unflatten(1, (layer.groups, -1)).unflatten(0, (places.numel(), -1))
        return pixels.permute(2, 0, 3, 1).flatten(2).contiguous()  # strided products are 10 times slower

    def outputs_at(self, layer: nn.Module, y: Tensor, places: Tensor) -> Tensor:
        pixels = y.movedim(1, -1).flatten(1, -2)
        at = places + pixels.shape[1] * torch.arange(len(y))[:, None]
        pixels = pixels.flatten(0, 1).index_select(0, at.flatten().to(y.device))  # [N*P, O]
        return pixels.unflatten(1, (layer.groups, -1)).transpose(0, 1).contiguous()

    def summed(self, layer: nn.Module, y: Tensor) -> Tensor:
        return y.sum([0, *range(2, y.ndim)]).unflatten(0, (layer.groups, -1))

    def assembled(self, sums: Tensor, sizes: tuple[int, ...]) -> Tensor:
        return sums.mT.unflatten(2, sizes)

    def per_output(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * self.dims)

    def norm(self, num_channels: int, momentum: float | None) -> _BatchNorm:
        return getattr(nn, f"BatchNorm{self.dims}d")(num_channels, momentum=momentum)

    def _spread(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The input as taps read it, but for the padding."""
        return x

    def _before(self, layer: nn.Module, dim: int) -> int:
        """Zeros before the input."""
        return margins(layer)[dim][0]

    def _stride(self, layer: nn.Module, dim: int) -> int:
        """How far apart two places read."""
        return layer.stride[dim]

    def _taps(self, layer: nn.Module, dim: int) -> Tensor:
        """Where the kernel's taps read, relative to a place."""
        return torch.arange(layer.kernel_size[dim]) * layer.dilation[dim]


class TransposedConvolution(Convolution):
    """A convolution of stride 1 with its kernel turned round, over the input with zeros between its pixels."""

    module = TransposedConv

    def __init__(self, dims: int):
        self.dims, self.name = dims, f"ConvTranspose{dims}d"
        self.native = getattr(nn, self.name)
        self.operations = (
            (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)[dims - 1],
        )

    def build(self, weight: Tensor, bias: Tensor | None, **geometry: object) -> nn.Module:
        geometry = _as_tuples(geometry)
        weight = swap_channels(weight, geometry.get("groups", 1))
        outputs, inputs, *kernel = weight.shape
        inputs *= geometry.get("groups", 1)
        layer = TransposedConv(
            inputs, outputs, tuple(kernel), bias=bias is not None, device=torch.device("meta"), **geometry
        )
        return _with_values(layer, weight, bias)

    def out_sizes(self, layer: nn.Module, x: Tensor) -> tuple[int, ...]:
        geometry = (layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.kernel_size)
        sizes = zip(x.shape[2:], *geometry, strict=True)
        return tuple((size - 1) * s - 2 * p + d * (k - 1) + more + 1 for size, s, p, more, d, k in sizes)

    def macs(self, layer: nn.Module, x: Tensor, y: Tensor) -> int:
        return x.numel() * layer.weight[:, 0].numel() // layer.groups

    def _spread(self, layer: nn.Module, x: Tensor) -> Tensor:
        sizes = [(size - 1) * s + 1 for size, s in zip(x.shape[2:], layer.stride, strict=True)]
        wide = x.new_zeros(*x.shape[:2], *sizes)
        wide[(..., *(slice(None, None, s) for s in layer.stride))] = x
        return wide

    def _before(self, layer: nn.Module, dim: int) -> int:
        return layer.dilation[dim] * (layer.kernel_size[dim] - 1) - layer.padding[dim]

    def _stride(self, layer: nn.Module, dim: int) -> int:
        return 1

    def _taps(self, layer: nn.Module, dim: int) -> Tensor:
        return super()._taps(layer, dim).flip(0)


def margins(layer: nn.Module) -> list[tuple[int, int]]:
    """Zeros before and behind an input along each dimension."""
    if layer.padding == "valid":
        return [(0, 0)] * len(layer.kernel_size)
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(size, size) for size in layer.padding]


def _as_tuples(geometry: dict[str, object]) -> dict[str, object]:
    """torch.export gives lists, of one value where all dimensions share it."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in geometry.items()}


def _with_values(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


KINDS: tuple[Kind, ...] = (
    Linear(), *(Convolution(dims) for dims in (1, 2, 3)), *(TransposedConvolution(dims) for dims in (1, 2, 3)),
)  # fmt: skip
QUANTIZABLE = tuple({kind.module for kind in KINDS})
BY_OPERATION = {operation: kind for kind in KINDS for operation in kind.operations}


def kind_of(layer: nn.Module) -> Kind:
    """The kind of a captured model's layer."""
    dims = len(getattr(layer, "kernel_size", ()))
    return next(kind for kind in KINDS if type(layer) is kind.module and getattr(kind, "dims", 0) == dims)


def channels_last(model: Model) -> Model:
    """The model with the weights of its convolutions over two dimensions in channels_last, which they then compute in.

    So the memory format of the images makes no difference, not even to the order of sums; and it is a quarter faster
    on small networks on a CPU.
    """
    for layer in model.modules():
        if type(layer) in QUANTIZABLE and layer.weight.ndim == 4:
            layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
    return model


def grouped_rows(layer: nn.Module, values: Tensor) -> Tensor:
    """[O, *rest] -> [G, O/G, n]: the weight's rows, group by group; n inputs meet a row."""
    return values.reshape(getattr(layer, "groups", 1), -1, values[0].numel())
