"""A layer as a matrix product: patches times weight rows must be what torch computes, for every kind and geometry."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from attnround.graph.kinds import KINDS, grouped_rows, kind_of
from attnround.graph.patches import Patches

LAYERS = {
    "plain": nn.Conv2d(4, 6, 3),
    "padded": nn.Conv2d(4, 6, (3, 5), padding=(1, 2)),
    "strided": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "uneven stride": nn.Conv2d(4, 6, 3, stride=(1, 2), padding=1),
    "dilated": nn.Conv2d(4, 6, 3, padding=2, dilation=2),
    "grouped": nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "depthwise": nn.Conv2d(4, 4, 5, padding=2, groups=4),
    "depthwise times two": nn.Conv2d(4, 8, 3, padding=1, groups=4),
    "pointwise": nn.Conv2d(4, 6, 1),
    "torch same": nn.Conv2d(4, 6, (3, 5), padding="same", dilation=(1, 2)),
    "torch valid": nn.Conv2d(4, 6, 3, padding="valid"),
    "linear": nn.Linear(4, 6),
    "one dimension": nn.Conv1d(4, 6, 5, stride=2, padding=3, groups=2),
    "three dimensions": nn.Conv3d(4, 6, (2, 3, 1), stride=(1, 2, 3), padding=(1, 0, 2), dilation=(2, 1, 1), groups=2),
    "transposed": nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed, cropped": nn.ConvTranspose2d(4, 6, (2, 3), padding=(2, 3), dilation=(1, 2)),
    "transposed, grouped": nn.ConvTranspose2d(4, 8, (3, 4), stride=(3, 1), padding=(0, 2), groups=2),
    "transposed, apart": nn.ConvTranspose2d(4, 6, 1, stride=3),
    "transposed, one dimension": nn.ConvTranspose1d(4, 6, 4, stride=2, groups=2),
    "transposed, three dimensions": nn.ConvTranspose3d(4, 6, (1, 2, 3), stride=(2, 1, 2), output_padding=(1, 0, 0)),
}


def as_captured(native: nn.Module) -> nn.Module:
    """The layer of its kind that a captured model has for a layer of torch's."""
    name = type(native).__name__
    if "Transpose" not in name:
        return native
    geometry = {key: getattr(native, key) for key in ("stride", "padding", "output_padding", "groups", "dilation")}
    return next(kind for kind in KINDS if kind.name == name).build(native.weight, native.bias, **geometry)


def input_of(layer: nn.Module) -> torch.Tensor:
    sizes = {"Linear": (7, 4), 1: (4, 11), 2: (4, 9, 12), 3: (4, 5, 6, 7)}
    kind = kind_of(layer)
    return torch.randn(2, *sizes["Linear" if kind.name == "Linear" else kind.dims], dtype=torch.double)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_all_patches_give_the_whole_output(name, generator):
    native = LAYERS[name].double()
    layer = as_captured(native)
    kind, x = kind_of(layer), input_of(layer)
    expected = native(x)
    torch.testing.assert_close(layer(x), expected)
    sizes = kind.out_sizes(layer, x)
    assert list(sizes) == list(expected.shape[1:-1] if kind.name == "Linear" else expected.shape[2:])
    (columns,) = Patches(layer, 10_000, generator).draw(x)
    product = columns @ grouped_rows(layer, layer.weight).mT  # [G, N*P, O/G]
    rows = product.permute(1, 0, 2).flatten(1) + layer.bias
    torch.testing.assert_close(kind.assembled(rows.unflatten(0, (len(x), -1)), sizes), expected)
    product = kind.product(layer, grouped_rows(layer, layer.weight), x)
    torch.testing.assert_close(product + kind.per_output(layer.bias), expected)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_multiplications_are_counted_as_torch_counts_them(name):
    native = LAYERS[name].double()
    layer = as_captured(native)
    x = input_of(layer)
    with FlopCounterMode(display=False) as counter:
        y = native(x)
    assert 2 * kind_of(layer).macs(layer, x, y) == counter.get_total_flops()


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_norm_is_over_the_outputs_channels(name):
    layer = as_captured(LAYERS[name].double())
    y = layer(input_of(layer))
    norm = kind_of(layer).norm(6 if y.shape[-1] == 6 else y.shape[1], 0.1).double()
    normed, channels = norm(y), -1 if kind_of(layer).name == "Linear" else 1
    others = [dim for dim in range(y.ndim) if dim != channels % y.ndim]
    torch.testing.assert_close(normed.mean(others), torch.zeros(y.shape[channels]).double(), rtol=0, atol=1e-9)
    assert normed.shape == y.shape


def test_the_same_places_are_drawn_of_both_inputs(generator):
    conv = nn.Conv2d(3, 4, 3, padding=1)
    x = torch.randn(5, 3, 8, 8)
    one, two = Patches(conv, 9, generator).draw(x, 2 * x)
    assert one.shape == (1, 45, 27)
    assert torch.equal(2 * one, two)


def test_places_of_an_image_differ_and_images_differ(generator):
    conv = nn.Conv2d(1, 1, 1)
    x = torch.arange(2 * 64).float().reshape(2, 1, 8, 8)
    (columns,) = Patches(conv, 10, generator).draw(x)
    first, second = columns.reshape(2, 10)
    assert len(first.unique()) == len(second.unique()) == 10
    assert not torch.equal(first, second - 64)


def test_two_dimensional_inputs_of_a_linear_layer(generator):
    linear = nn.Linear(4, 2)
    x = torch.randn(6, 4)
    assert torch.equal(Patches(linear, 3, generator).draw(x)[0], x[None])
