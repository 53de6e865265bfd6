"""A quantized layer while it is trained: a float weight behind its integers, and steps that are learned.

Source: Learned Step Size Quantization, arXiv 1902.08153, here with a step for each output channel.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from attnround.quantization.grid import Grid, dequantize, per_channel, quantize, steps
from attnround.quantization.layers import QuantizedLayer, quantized_layers
from attnround.quantization.lsq import LEAST, LearnedStep, gradient_scale

# In steps: so far from its level a weight starts at most, where PTQ moved it. With 0.49 the first steps undo that: at 2
# bits (resnet18_slim, lr 0.003) an epoch led from a top-1 of 93.57 to 91.96, and with 0.25 to 93.71.
REACH = 0.25
TINY = 1e-12  # so small a batch norm's gain


class TrainedLayer(nn.Module):
    """Stands where `quantized` stood and computes the same at first.

    weight: float [O, *rest], which the integers were made from. It starts there, but where a rounding decided for
    another level than the nearest, within REACH of that one. The step of the activation, if it has one, is learned too.
    """

    def __init__(self, quantized: QuantizedLayer, weight: Tensor):
        super().__init__()
        self.quantized = quantized
        quantized.layer.weight.requires_grad_(False)
        quantized.layer.bias.requires_grad_(True)
        scale, zero_point, grid = quantized.scale, quantized.zero_point, quantized.grid
        levels = quantized.levels.to(weight.dtype)
        u = steps(weight, scale, zero_point)
        inside = torch.minimum(torch.maximum(u, levels - REACH), levels + REACH)
        u = torch.where(u.round().clamp(grid.qmin, grid.qmax) == levels, u, inside)
        self.weight = nn.Parameter(dequantize(u, scale, zero_point))
        self.scale = nn.Parameter(scale.clone())
        self.factor = gradient_scale(weight[0].numel(), Grid(grid.bit_width).qmax)
        self.norm: _BatchNorm | None = None
        if quantized.activation is not None:
            quantized.activation.scale.requires_grad_(True)
            quantized.activation.scale_gradient = True
        self.register_buffer("least", LEAST * scale, persistent=False)
        least = LEAST * quantized.activation.scale.detach() if quantized.activation is not None else torch.tensor(0.0)
        self.register_buffer("least_of_activation", least, persistent=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name; some models call it by keyword)
        grid, zero_point = self.quantized.grid, self.quantized.zero_point
        lowest, highest = grid.qmin - zero_point, grid.qmax - zero_point
        weight = LearnedStep.apply(self.weight, self.scale, lowest, highest, self.factor)
        output = functional_call(self.quantized, {"layer.weight": weight}, (input,))
        return output if self.norm is None else self.norm(output)

    @torch.no_grad()
    def shrink(self, gain: Tensor) -> None:
        """Divide each output channel by its gain [O]; the integers stay."""
        self.weight.div_(per_channel(gain, self.weight))
        self.quantized.layer.bias.div_(gain)
        for step in (self.scale, self.least):
            step.div_(gain)

    @torch.no_grad()
    def keep_positive(self) -> None:
        """Raise steps that an optimizer made too small to their least."""
        self.scale.clamp_(min=self.least)
        if self.quantized.activation is not None:
            self.quantized.activation.scale.clamp_(min=self.least_of_activation)
        if self.norm is not None:
            self.norm.weight.clamp_(min=TINY)  # it becomes a factor of the step

    @torch.no_grad()
    def settle(self) -> QuantizedLayer:
        """The quantized layer with the integers and steps that were learned."""
        layer, bias = self.quantized, self.quantized.layer.bias
        gain: Tensor | float = 1.0
        if self.norm is not None:
            gain = self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)
            bias = self.norm.bias + (bias - self.norm.running_mean) * gain
        scale = layer.with_room(self.scale * gain, bias)
        raised = scale / (self.scale * gain)  # 1, but for a channel of next to nothing but its bias
        levels = quantize(self.weight, self.scale * raised, layer.zero_point, layer.grid)
        layer.scale.copy_(scale)
        layer.bake(levels, bias)
        return layer.requires_grad_(False)


def train_layers(student: nn.Module, teacher: nn.Module) -> None:
    """Put a trained layer in the place of every quantized one of the student; the teacher has the float weights."""
    trained = {
        name: TrainedLayer(layer, teacher.get_submodule(name).weight.detach())
        for name, layer in quantized_layers(student).items()
    }
    for name, layer in trained.items():
        student.set_submodule(name, layer)
    student.register_forward_pre_hook(keep_positive)


def is_trained_from(model: nn.Module, student: nn.Module) -> bool:
    """Whether a model has trained layers where a student has quantized ones: of these names, shapes and grids."""
    trained = {name: layer.quantized for name, layer in model.named_modules() if isinstance(layer, TrainedLayer)}
    found, wanted = (
        {name: (layer.levels.shape, layer.grid, layer.activation is None) for name, layer in layers.items()}
        for layers in (trained, quantized_layers(student))
    )
    return found == wanted


def keep_positive(student: nn.Module, *_: object) -> None:
    """Keep the steps of a student's trained layers positive, whatever an optimizer made of them."""
    for layer in student.modules():
        if isinstance(layer, TrainedLayer):
            layer.keep_positive()


def settle_layers(student: nn.Module) -> None:
    """Put quantized layers back in the place of the trained ones."""
    keep_positive(student)
    hooks = student._forward_pre_hooks
    for number in [number for number, hook in hooks.items() if hook is keep_positive]:
        del hooks[number]
    for name, layer in list(student.named_modules()):
        if isinstance(layer, TrainedLayer):
            student.set_submodule(name, layer.settle())
