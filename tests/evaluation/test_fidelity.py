import math

import pytest
import torch
from torch import nn

from attnround.evaluation import Outputs, agreement, fidelity, kl_nats, logit_sqnr_db, size_mib
from attnround.evaluation.fidelity import confidence_change
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


def probabilities(logits: list[float]) -> list[float]:
    return [math.exp(each) / sum(map(math.exp, logits)) for each in logits]


def test_kl_and_the_change_of_confidence_are_sums_over_classes(generator):
    reference = 3 * torch.randn(20, 7, generator=generator)
    logits = reference + torch.randn(20, 7, generator=generator)
    divergences, changes = [], []
    for one, other in zip(reference.tolist(), logits.tolist(), strict=True):
        p, q = probabilities(one), probabilities(other)
        divergences.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        top = p.index(max(p))
        changes.append(100 * (q[top] - p[top]))
    assert kl_nats(reference, logits) == pytest.approx(sum(divergences) / 20, rel=1e-12)
    assert confidence_change(reference, logits) == pytest.approx(sum(changes) / 20, rel=1e-12)
    assert list(fidelity(reference, logits)) == ["agreement", "sqnr_db", "kl", "confidence_change"]


def test_logits_that_are_far_apart_have_a_finite_kl():
    reference, logits = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    assert kl_nats(reference, logits) == 1e4
    assert confidence_change(reference, logits) == -100
    assert kl_nats(reference, reference) == 0


def test_of_pixels_the_mean_is_taken_over_all():
    reference, logits = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    flat = [each.permute(0, 2, 3, 1).reshape(-1, 3) for each in (reference, logits)]
    assert kl_nats(reference, logits) == pytest.approx(kl_nats(*flat))
    assert confidence_change(reference, logits) == pytest.approx(confidence_change(*flat))


def test_without_labels_nothing_is_right():
    outputs = Outputs(torch.eye(3), None)
    assert (len(outputs), outputs.correct, outputs.top1) == (3, None, None)


def test_size_counts_packed_weights_scales_and_the_rest():
    model = nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 4, bias=False))
    assert size_mib(model) * 2**20 == 4 * (16 * 8 + 8 + 16 + 8 * 4)
    quantized = swap_layers(model, {"0": 3, "2": 5}, ClipSearch())
    expected = (16 * 8 * 3 + 8 * 4 * 5) / 8 + 4 * (8 + 4) + 4 * (8 + 4) + 4 * 16  # levels, scales, biases, LayerNorm
    assert size_mib(quantized) * 2**20 == expected
    asymmetric = swap_layers(model, {"0": 3, "2": 5}, ClipSearch(symmetric=False))
    assert size_mib(asymmetric) * 2**20 == expected + 8 + 4  # a byte of zero point a channel


def test_a_class_that_is_masked_in_both_counts_nothing():
    reference = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    logits = reference + 0.1 * torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    masked = fidelity(*(torch.cat([each, torch.full((20, 1), -torch.inf)], 1) for each in (reference, logits)))
    assert masked == pytest.approx(fidelity(reference, logits), rel=1e-12)
