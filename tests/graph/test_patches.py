"""Patches times weight rows must be what the layer computes, wherever padding, stride, dilation and groups put them."""

import pytest
import torch
from torch import nn

from attnround.graph.patches import Patches, grouped_rows

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
}


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_all_patches_give_the_whole_output(name, generator):
    layer = LAYERS[name].double()
    linear = isinstance(layer, nn.Linear)
    x = torch.randn(2, 7, 4) if linear else torch.randn(2, 4, 9, 12)
    x = x.double()
    (columns,) = Patches(layer, 10_000, generator).draw(x)
    product = columns @ grouped_rows(layer, layer.weight).mT  # [G, N*P, O/G]
    rows = product.permute(1, 0, 2).flatten(1) + layer.bias
    output = layer(x)
    expected = output.flatten(0, 1) if linear else output.permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(rows, expected)


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
