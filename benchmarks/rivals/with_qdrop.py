"""QDrop's own code, in a clone that a user gives (github.com/wimh966/QDrop): its script's steps, with its functions.

Settings are those of its exp/w2a4, ResNet-18's or MobileNetV2's, with the bits that are asked for. `qdrop` takes its
20,000 iterations a block, `qdrop_2000` a tenth. Inputs have the images as they are; the results of activations and of
sums are quantized, with 8 bits before the last layer.
"""

import copy
import os
from pathlib import Path

import torch
import yaml
from cell import Case
from checkout import GIVEN, in_blocks, on_cpu, revision
from easydict import EasyDict
from torch import nn

on_cpu("", "qdrop/solver")

from fold_bn import search_fold_and_remove_bn  # noqa: E402
from main_imagenet import quantize_model  # noqa: E402
from qdrop.model import BasicBlock, InvertedResidual  # noqa: E402
from qdrop.quantization.quantized_module import QuantizedBlock, QuantizedLayer  # noqa: E402
from qdrop.quantization.state import disable_all, enable_calibration_woquantization, enable_quantization  # noqa: E402
from recon import reconstruction  # noqa: E402

VERSION = revision()
NUM_RANGES, NUM_SCALES = 256, 2  # images that ranges of inputs are found on, and that run while scales of weights are


def reconstructed(case: Case, weights: int, inputs: int, share: float) -> nn.Module:
    model = in_blocks(case, BasicBlock, InvertedResidual)
    kind = "mbv2" if any(isinstance(each, InvertedResidual) for each in model) else "r18"
    config = EasyDict(yaml.safe_load((Path(os.environ[GIVEN]) / f"exp/w2a4/{kind}/config.yaml").read_text())).quant
    config.w_qconfig.bit, config.a_qconfig.bit = weights, inputs
    config.recon.iters = case.iterations(int(share * config.recon.iters))
    search_fold_and_remove_bn(model)
    model = quantize_model(model, config).eval()
    floats = copy.deepcopy(model)
    disable_all(floats)
    with torch.no_grad():
        enable_calibration_woquantization(model, quantizer_type="act_fake_quant")
        model(case.images[:NUM_RANGES])
        enable_calibration_woquantization(model, quantizer_type="weight_fake_quant")
        model(case.images[:NUM_SCALES])
    enable_quantization(model)

    def learn(part: nn.Module, float_part: nn.Module) -> None:
        for each, float_each in zip(part.children(), float_part.children(), strict=True):
            if isinstance(each, QuantizedLayer | QuantizedBlock):
                reconstruction(model, floats, each, float_each, case.images, config.recon)
            else:
                learn(each, float_each)

    learn(model, floats)
    enable_quantization(model)
    return model.eval()


def qdrop(case: Case, weights: int, inputs: int) -> nn.Module:
    return reconstructed(case, weights, inputs, 1)


def qdrop_2000(case: Case, weights: int, inputs: int) -> nn.Module:
    return reconstructed(case, weights, inputs, 0.1)


METHODS = {each.__name__: each for each in (qdrop, qdrop_2000)}
