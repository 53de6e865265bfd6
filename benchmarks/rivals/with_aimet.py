"""AIMET's AdaRound, by its authors: aimet_torch.adaround, then a QuantizationSimModel where inputs are quantized.

Set otherwise than its defaults: a scale a channel (its default_config_per_channel.json), weights symmetric as there;
8 bits for the weights of the first and the last layer, for what they read and for the logits; where inputs are
quantized, the results of sums and activations are too, as its simulation does. The network is prepared and its batch
norms are folded by AIMET's own functions, so that its simulation knows an activation behind a convolution. Iterations
are as it chooses, 15,000 a layer below 8 bits and 10,000 at 8; `adaround_1500` takes a tenth, and `adaround_75` so few
that it takes about as long as this project's methods.
"""

import tempfile
from pathlib import Path

import aimet_torch
import torch
from aimet_torch.adaround import Adaround, AdaroundParameters
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.model_preparer import prepare_model
from cell import BATCH, Case
from timm.layers import BatchNormAct2d
from torch import nn
from torch.utils.data import DataLoader

PACKAGE, ITERATIONS = "aimet-torch", 15000
CONFIG = str(Path(aimet_torch.__file__).parent / "common/quantsim_config/default_config_per_channel.json")


def prepared(case: Case) -> nn.Module:
    """The network as AIMET wants it: every function a module of its own, batch norms in the weights."""
    plain = case.plain()
    for name, each in list(plain.named_modules()):
        if isinstance(each, BatchNormAct2d):
            norm = nn.BatchNorm2d(each.num_features, each.eps)
            norm.load_state_dict(each.state_dict())
            plain.set_submodule(name, nn.Sequential(norm, each.act))
    module = prepare_model(plain.eval()).eval()
    fold_all_batch_norms(module, tuple(case.images[:1].shape))
    return module


def rounded(case: Case, weights: int, inputs: int | None, number: int | None) -> nn.Module:
    """By AdaRound with so many iterations a layer, None: as many as AIMET chooses."""
    module = prepared(case)
    layers = [each for each in module.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    loader = DataLoader(case.images, batch_size=BATCH)
    iterations = case.iterations(number or ITERATIONS) if case.effort < 1 else number
    settings = AdaroundParameters(loader, len(loader), iterations, forward_fn=lambda net, batch: net(batch))
    sample = case.images[:1]
    with tempfile.TemporaryDirectory() as folder:
        found = Adaround.apply_adaround(
            module, sample, settings, folder, "found", default_param_bw=weights,
            param_bw_override_list=[(layers[0], 8), (layers[-1], 8)], default_config_file=CONFIG,
        )  # fmt: skip
        if inputs is None:
            return found
        sim = aimet_torch.QuantizationSimModel(
            found, sample, default_output_bw=inputs, default_param_bw=weights, config_file=CONFIG
        )
        for each in sim.qmodules():
            at_end = isinstance(each, nn.AdaptiveAvgPool2d | nn.Linear)
            for quantizer in (*each.input_quantizers, *(each.output_quantizers if at_end else ())):
                if quantizer is not None:
                    quantizer.bitwidth = 8
        sim.set_and_freeze_param_encodings(str(Path(folder) / "found.encodings"))
    with torch.no_grad():
        sim.compute_encodings(lambda net: [net(batch) for batch in case.batches])
    return sim.model


def adaround(case: Case, weights: int, inputs: int | None) -> nn.Module:
    return rounded(case, weights, inputs, None)


def adaround_1500(case: Case, weights: int, inputs: int | None) -> nn.Module:
    return rounded(case, weights, inputs, 1500)


def adaround_75(case: Case, weights: int, inputs: int | None) -> nn.Module:
    return rounded(case, weights, inputs, 75)


METHODS = {each.__name__: each for each in (adaround, adaround_1500, adaround_75)}
