"""AIMET's AdaRound, by its authors: aimet_torch.adaround, then a QuantizationSimModel where inputs are quantized.

Set otherwise than its defaults: a scale a channel (its default_config_per_channel.json), weights symmetric as there;
8 bits for the weights of the first and the last layer, not for their inputs; where inputs are quantized, the results of
sums and activations are too, as its simulation does. Iterations are as it chooses: 15,000 a layer
below 8 bits, 10,000 at 8. The module it is given has its batch norms folded.
"""

import tempfile
from pathlib import Path

import aimet_torch
import torch
from aimet_torch.adaround import Adaround, AdaroundParameters
from cell import BATCH, Case
from torch import nn
from torch.utils.data import DataLoader

from attnround.prepared import Prepared

PACKAGE, ITERATIONS = "aimet-torch", 15000
CONFIG = str(Path(aimet_torch.__file__).parent / "common/quantsim_config/default_config_per_channel.json")


def adaround(case: Case, weights: int, inputs: int | None) -> nn.Module:
    module = Prepared(case.module, case.images).teacher
    layers = [each for each in module.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    loader = DataLoader(case.images, batch_size=BATCH)
    settings = AdaroundParameters(
        loader, len(loader), case.iterations(ITERATIONS) if case.effort < 1 else None,
        forward_fn=lambda net, batch: net(batch),
    )  # fmt: skip
    sample = case.images[:1]
    with tempfile.TemporaryDirectory() as folder:
        rounded = Adaround.apply_adaround(
            module, sample, settings, folder, "found", default_param_bw=weights,
            param_bw_override_list=[(layers[0], 8), (layers[-1], 8)], default_config_file=CONFIG,
        )  # fmt: skip
        if inputs is None:
            return rounded
        sim = aimet_torch.QuantizationSimModel(
            rounded, sample, default_output_bw=inputs, default_param_bw=weights, config_file=CONFIG
        )
        sim.set_and_freeze_param_encodings(str(Path(folder) / "found.encodings"))
    with torch.no_grad():
        sim.compute_encodings(lambda net: [net(batch) for batch in case.batches])
    return sim.model


METHODS = {"adaround": adaround}
