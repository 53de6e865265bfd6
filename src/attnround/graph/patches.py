"""A layer as a matrix product: the columns of its input that its weight rows multiply."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


def grouped_rows(layer: nn.Module, values: Tensor) -> Tensor:
    """[O, *rest] -> [G, O/G, n]: the weight's rows, group by group; n inputs meet a row."""
    return values.reshape(getattr(layer, "groups", 1), -1, values[0].numel())


class Patches:
    """Draws the same places of several inputs: at most `num_positions` output positions of each image, seeded.

    For a convolution's input [N, C, H, W] it gives [G, N*P, n] with n = C/G * kh * kw, padding included; for a linear
    layer's [N, *tokens, n] it gives [1, N*P, n].
    """

    def __init__(self, layer: nn.Module, num_positions: int, generator: torch.Generator):
        self.layer = layer
        self.num_positions = num_positions
        self.generator = generator

    def draw(self, *inputs: Tensor) -> list[Tensor]:
        if isinstance(self.layer, nn.Linear):
            tokens = inputs[0][..., 0].flatten(1) if inputs[0].ndim > 2 else inputs[0][:, :1]
            places = self._places(*tokens.shape)
            image = torch.arange(len(places))[:, None]
            return [x.reshape(*tokens.shape, -1)[image, places].flatten(0, 1)[None] for x in inputs]
        return self._convolution(*inputs)

    def _places(self, num_images: int, num_available: int) -> Tensor:
        """[N, P] places of each image, drawn without replacement; all of them where there are few."""
        if num_available <= self.num_positions:
            return torch.arange(num_available).expand(num_images, -1)
        keys = torch.rand(num_images, num_available, generator=self.generator)
        return keys.topk(self.num_positions, dim=1).indices

    def _convolution(self, *inputs: Tensor) -> list[Tensor]:
        layer = self.layer
        num_images, channels, height, width = inputs[0].shape
        (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
        margins = paddings(layer, height, width)
        out_h = (height + margins[2] + margins[3] - dh * (kh - 1) - 1) // sh + 1
        out_w = (width + margins[0] + margins[1] - dw * (kw - 1) - 1) // sw + 1
        places = self._places(num_images, out_h * out_w)
        rows = (places // out_w * sh)[:, :, None] + (torch.arange(kh) * dh).repeat_interleave(kw)
        columns = (places % out_w * sw)[:, :, None] + (torch.arange(kw) * dw).repeat(kh)
        image = torch.arange(num_images)[:, None, None]
        groups = layer.groups
        drawn = []
        for x in inputs:
            padded = pad(x, margins).permute(0, 2, 3, 1)  # channels last: a gather copies whole pixels
            pixels = padded[image.to(x.device), rows.to(x.device), columns.to(x.device)].flatten(0, 1)
            per_group = pixels.reshape(len(pixels), kh * kw, groups, channels // groups)
            drawn.append(per_group.permute(2, 0, 3, 1).flatten(2).contiguous())  # strided products are 10 times slower
        return drawn


def paddings(layer: nn.Conv2d, height: int, width: int) -> list[int]:
    """Zeros around an input of this size: [left, right, top, bottom], as torch.nn.functional.pad takes them."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    if layer.padding == "same":
        total_h, total_w = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        return [total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2]
    ph, pw = layer.padding
    return [pw, pw, ph, ph]
