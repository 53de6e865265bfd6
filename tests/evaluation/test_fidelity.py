import pytest
import torch
from torch import nn

from attnround.evaluation import Outputs, agreement, logit_sqnr_db, size_mib
from attnround.graph import swap_layers
from attnround.quantization.observer import ClipSearch


def test_top1_and_agreement_count_equal_maxima():
    reference = torch.tensor([[2.0, 1], [0, 1], [3, 0], [0, 5]])
    logits = torch.tensor([[2.0, 1], [1, 0], [3, 0], [0, 5]])
    assert Outputs(logits, torch.tensor([0, 1, 1, 1])).top1 == 50
    assert agreement(reference, logits) == 75


def test_logit_sqnr():
    reference = torch.tensor([[3.0, 4.0]])
    assert logit_sqnr_db(reference, reference + torch.tensor([[0.3, -0.4]])) == pytest.approx(20, abs=1e-4)


def test_size_counts_packed_weights_scales_and_the_rest():
    model = nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 4, bias=False))
    assert size_mib(model) * 2**20 == 4 * (16 * 8 + 8 + 16 + 8 * 4)
    quantized = swap_layers(model, {"0": 3, "2": 5}, ClipSearch())
    expected = (16 * 8 * 3 + 8 * 4 * 5) / 8 + 4 * (8 + 4) + 4 * (8 + 4) + 4 * 16  # levels, scales, biases, LayerNorm
    assert size_mib(quantized) * 2**20 == expected
    asymmetric = swap_layers(model, {"0": 3, "2": 5}, ClipSearch(symmetric=False))
    assert size_mib(asymmetric) * 2**20 == expected + 8 + 4  # a byte of zero point a channel
