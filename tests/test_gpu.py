"""The same work on a CUDA device: `pytest -m gpu` where there is one."""

import copy

import pytest
import torch

from attnround.graph import find_layers, fold_batch_norms, swap_layers
from attnround.quantization.observer import ClipSearch, sqnr_db
from attnround.quantization.rounding import AdaRound, AttentionRound
from attnround.reconstruction import LayerReconstruction, reconstruct
from attnround.trainer import TrainerSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.mark.parametrize("quantizer", [AdaRound(num_steps=400), AttentionRound()], ids=["ada", "attention"])
def test_a_gpu_reconstructs_as_well_as_a_cpu(network, quantizer):
    fold_batch_norms(network)
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    start = swap_layers(network, {layer.name: 3 for layer in find_layers(network)}, ClipSearch())
    settings = LayerReconstruction(observer=ClipSearch(), batch_size=16)
    fidelity = {}
    for accelerator in ("cpu", "gpu"):
        student = copy.deepcopy(start)
        reconstruct(copy.deepcopy(network), student, images, quantizer, settings, TrainerSettings(accelerator))
        with torch.no_grad():
            fidelity[accelerator] = sqnr_db(network(images), student.cpu()(images))
    assert fidelity["gpu"] > fidelity["cpu"] - 1
