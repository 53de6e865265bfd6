"""BRECQ's own code, in a clone that a user gives (github.com/yhhhli/BRECQ): its script's steps, with its functions.

Set otherwise than its script: nothing but what it is told on the command line in its README, a scale a channel and, for
MobileNetV2, a weight of 0.1 for the rounding's cost. `brecq` takes its 20,000 iterations a block, `brecq_2000` a tenth.
Where inputs are quantized, the results of activations and sums are, with the last one at 8 bits, and 5,000 iterations
for their scales follow.
"""

import torch
from cell import Case
from checkout import in_blocks, on_cpu, revision
from torch import nn

on_cpu("")

from models.mobilenetv2 import InvertedResidual  # noqa: E402
from models.resnet import BasicBlock  # noqa: E402
from quant import BaseQuantBlock, QuantModel, QuantModule, block_reconstruction, layer_reconstruction  # noqa: E402

VERSION = revision()
ITERATIONS, ITERATIONS_INPUTS, NUM_FIRST = 20000, 5000, 64


def reconstructed(case: Case, weights: int, inputs: int | None, share: float) -> nn.Module:
    module = in_blocks(case, BasicBlock, InvertedResidual)
    mobile = any(isinstance(each, InvertedResidual) for each in module)
    model = QuantModel(
        module,
        {"n_bits": weights, "channel_wise": True, "scale_method": "mse"},
        {"n_bits": inputs or 8, "channel_wise": False, "scale_method": "mse", "leaf_param": inputs is not None},
    ).eval()
    model.set_first_last_layer_to_8bit()
    model.set_quant_state(True, False)
    with torch.no_grad():
        model(case.images[:NUM_FIRST])

    def learn(part: nn.Module, **options: object) -> None:
        for each in part.children():
            if not isinstance(each, QuantModule | BaseQuantBlock):
                learn(each, **options)
            elif not each.ignore_reconstruction:
                by = layer_reconstruction if isinstance(each, QuantModule) else block_reconstruction
                by(model, each, cali_data=case.images, opt_mode="mse", **options)

    learn(
        model, iters=case.iterations(int(share * ITERATIONS)), weight=0.1 if mobile else 0.01, asym=True,
        b_range=(20, 2), warmup=0.2, act_quant=False,
    )  # fmt: skip
    if inputs is not None:
        model.set_quant_state(True, True)
        with torch.no_grad():
            model(case.images[:NUM_FIRST])
        model.disable_network_output_quantization()
        learn(model, iters=case.iterations(int(share * ITERATIONS_INPUTS)), act_quant=True, lr=4e-4, p=2.4)
    model.set_quant_state(True, inputs is not None)
    return model.eval()


def brecq(case: Case, weights: int, inputs: int | None) -> nn.Module:
    return reconstructed(case, weights, inputs, 1)


def brecq_2000(case: Case, weights: int, inputs: int | None) -> nn.Module:
    return reconstructed(case, weights, inputs, 0.1)


METHODS = {each.__name__: each for each in (brecq, brecq_2000)}
