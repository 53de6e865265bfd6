import torch
from torch import nn

from attnround.quantization.grid import Grid, dequantize, fake_quantize
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import ClipSearch


def quantized(layer: nn.Module, grid: Grid) -> QuantizedLayer:
    return QuantizedLayer(layer, grid, *ClipSearch(symmetric=grid.symmetric).search(layer.weight, grid))


def test_it_starts_at_nearest_and_computes_with_it():
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    weight = conv.weight.detach().clone()
    layer = quantized(conv, Grid(4))
    expected = fake_quantize(weight, layer.scale, layer.zero_point, layer.grid)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, expected, padding=1))


def test_the_weight_is_what_the_integers_say():
    for grid in (Grid(8), Grid(8, symmetric=False), Grid(2)):
        layer = quantized(nn.Linear(7, 3), grid)
        levels = torch.randint(grid.qmin, grid.qmax + 1, (3, 7))
        layer.bake(levels, bias=torch.ones(3))
        assert torch.equal(layer.levels.long(), levels)
        assert torch.equal(layer.layer.weight, dequantize(levels, layer.scale, layer.zero_point))
        assert torch.equal(layer.layer.bias, torch.ones(3))


def test_the_state_carries_integers_and_scales():
    layer = quantized(nn.Linear(3, 2), Grid(3))
    other = quantized(nn.Linear(3, 2), Grid(3))
    other.load_state_dict(layer.state_dict())
    assert other.levels.dtype == torch.int8
    x = torch.randn(4, 3)
    assert torch.equal(layer(x), other(x))
