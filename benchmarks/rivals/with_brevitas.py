"""Brevitas, by the functions of its own ImageNet example (brevitas_examples.imagenet_classification.ptq).

Set otherwise than its defaults, which are for one scale a tensor on all of integer hardware: the `layerwise` backend,
which quantizes what this project does, weights and inputs of layers; a scale a channel, found by MSE; 8 bits for the
first and the last layer, which its rule knows by 3 channels and 1,000 classes alone; float biases; inputs not
symmetric, and by MSE, which is 2 dB better than its percentiles at 4 bits (ResNet-18 slim, GPTQ). Activation order is
on for GPTQ and Qronos, as in its best configurations of ResNet-18 at 4 bits. ReLU6 stays: with ReLU in its place, its
default, MobileNetV2 0.5 has 13.7 dB at W8A8, and 35.1 with ReLU6. The rest is as there and by default: 20 iterations of
equalization with biases merged, bias correction at the end.
"""

from argparse import Namespace
from collections.abc import Callable

import torch
from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize
from brevitas_examples.imagenet_classification.ptq import ptq_common
from cell import Case
from dependencies import value
from torch import Tensor, nn

PACKAGE = "brevitas"
Loader = list[tuple[Tensor, Tensor]]


def started(case: Case, weights: int, inputs: int | None) -> tuple[nn.Module, Loader]:
    """The module with its quantizers calibrated, and the images with labels that nobody uses."""
    channels = case.images.shape[1]

    def bits(module: nn.Module, within: int | None) -> int | None:
        first = isinstance(module, nn.Conv2d) and module.in_channels == channels
        return 8 if within is not None and (first or isinstance(module, nn.Linear)) else within

    @value
    def weight_bits(module: nn.Module) -> int:
        return bits(module, weights)

    @value
    def input_bits(module: nn.Module) -> int | None:
        return bits(module, inputs)

    _, layers, _, _ = ptq_common.create_quant_maps(
        dtype=torch.float32, device="cpu", bias_bit_width=None, weight_bit_width=weight_bits,
        weight_param_method="mse", weight_scale_type="float_scale", weight_quant_type="sym",
        weight_quant_granularity="per_channel", weight_narrow_range=False, weight_quant_format="int",
        act_quant_format="int", act_bit_width=None if inputs is None else input_bits, act_scale_type="float_scale",
        act_scale_computation_type="static", act_param_method="mse", act_quant_type="asym",
        act_quant_granularity="per_tensor", act_quant_percentile=99.999,
    )  # fmt: skip
    module = preprocess_for_quantize(case.plain(), equalize_iters=20, relu6_to_relu=False)
    module = layerwise_quantize(module, compute_layer_map=layers).eval()
    loader = [(batch, torch.zeros(len(batch))) for batch in case.batches]
    with torch.no_grad():
        module(loader[0][0])
    if inputs is not None:
        ptq_common.calibrate(loader, module)
    return module, loader


def method(apply: Callable[[nn.Module, Loader, Case], None]) -> Callable[[Case, int, int | None], nn.Module]:
    """A method that changes the module in place, and bias correction after it."""

    def quantized(case: Case, weights: int, inputs: int | None) -> nn.Module:
        module, loader = started(case, weights, inputs)
        apply(module, loader, case)
        ptq_common.apply_bias_correction(loader, module)
        return module

    return quantized


def nearest(module: nn.Module, loader: Loader, case: Case) -> None:
    """Nothing: the scales are found."""


def gptq(module: nn.Module, loader: Loader, case: Case) -> None:
    ptq_common.apply_gptq(loader, module, act_order=True, create_weight_orig=True)


def qronos(module: nn.Module, loader: Loader, case: Case) -> None:
    ptq_common.apply_qronos(module, loader, act_order=True)


def learned_round(module: nn.Module, loader: Loader, case: Case) -> None:
    from brevitas_examples.imagenet_classification.ptq.learned_round_utils import apply_learned_round

    apply_learned_round(module, loader, Namespace(**LEARNED_ROUND, learned_round_iters=case.iterations(1000)))


LEARNED_ROUND = {  # the example's defaults, with AdaRound's own parametrisation and loss
    "learned_round": "hard_sigmoid", "learned_round_loss": "regularised_mse", "learned_round_mode": "layerwise",
    "learned_round_lr": 1e-3, "learned_round_lr_scheduler": None,
    "learned_round_batch_size": 32,
}  # fmt: skip
METHODS = {each.__name__: method(each) for each in (nearest, gptq, qronos, learned_round)}
