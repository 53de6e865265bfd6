import json
import logging

import pytest
import torch
from torch import nn

from attnround.bits import Allocation, Layer, Uniform, allocation_json
from attnround.errors import InputError
from attnround.evaluation import Outputs
from attnround.experiment.job import Job
from attnround.experiment.record import Run
from attnround.experiment.stages import compare, find_start, fold
from attnround.graph import capture
from attnround.prepared import Prepared
from attnround.qat import NoTraining
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import Float
from attnround.quantization.rounding import Nearest
from attnround.reconstruction import LayerReconstruction
from attnround.trainer import TrainerSettings


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_logits_that_are_not_finite_are_told_before_anything_is_folded(network, value):
    probes = torch.zeros(5, 3, 16, 16)
    probes[[1, 3], 0, 4, 4] = value
    modules = [name for name, _ in network.named_modules()]
    with pytest.raises(
        InputError, match=r"^2 of the 5 probe images give logits that are not finite: check the"
    ) as said:
        fold(network, probes, {})
    assert "\n" not in str(said.value)
    assert [name for name, _ in network.named_modules()] == modules


@torch.no_grad()
def test_logits_that_are_huge_are_told(network, caplog):
    network.head.weight *= 1e30
    fold(network, torch.randn(5, 3, 16, 16), {})
    assert "logits reach" in caplog.text


def test_norms_are_folded_where_logits_are_finite(network):
    assert list(fold(network, torch.zeros(5, 3, 16, 16), {}).norms) == ["stem"]


SIZE = 128
NUM_INPUTS = 3 * SIZE * SIZE
# Such a weight, in units of the others' rms, is worth more to the norm 2.4 than all the others, which are lost for it,
# and less to the signal: 100^2.4 > 49152 > 100^2.
OUTLIER = 100.0


class Heads(nn.Module):
    """Linear layers on one input, their outputs summed."""

    def __init__(self, weights: list[torch.Tensor]):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(NUM_INPUTS, len(weight)) for weight in weights)
        for head, weight in zip(self.heads, weights, strict=True):
            head.weight.data = weight

    def forward(self, x):
        return sum(head(x.flatten(1)) for head in self.heads)


@pytest.fixture
def warnings_of(tmp_path, caplog):
    """What is warned of at the start of a quantization to two bits of layers with such weights."""

    def warned(*weights: torch.Tensor) -> list[str]:
        images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
        prepared = Prepared.of_captured(capture(Heads(weights), images[:1]), images, {})
        run = Run("quantize", {"bits": "uniform", "activation": "none"}, 0, False, {}, "", tmp_path, tmp_path)
        settings = LayerReconstruction(observer=ClipSearch())
        bits = Uniform(bit_width=2, pinned={})
        with caplog.at_level(logging.WARNING):
            job = Job(
                model=None, data=None, quantizer=Nearest(), bits=bits, activation=Float(), reconstruction=settings,
                qat=NoTraining(), trainer=TrainerSettings(), loggers=[], run=run,
            )  # fmt: skip
            job.prepared = prepared
            find_start(job)
        return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]

    return warned


def spoiled(generator: torch.Generator, scale: float = 1.0) -> torch.Tensor:
    weight = torch.randn(1, NUM_INPUTS, generator=generator)
    weight[0, 0] = OUTLIER
    return weight * scale


def test_a_layer_that_its_largest_weight_costs_all_others_is_named(warnings_of, generator):
    (warning,) = warnings_of(torch.randn(1, NUM_INPUTS, generator=generator), spoiled(generator))
    assert "heads.1 (0.8 dB, largest weight 91 times the rms)" in warning
    assert "heads.0" not in warning
    assert "\n" not in warning


@pytest.mark.parametrize("scale", [1e-13, 1e30])
def test_whatever_the_scale_of_its_weights(warnings_of, generator, scale):
    (warning,) = warnings_of(spoiled(generator, scale))
    assert "heads.0 (0.8 dB, largest weight 91 times the rms)" in warning


def test_one_broken_weight_among_many_channels_is_named(warnings_of, generator):
    weight = torch.randn(4, NUM_INPUTS, generator=generator)
    weight[2, 5] = 1e30
    (warning,) = warnings_of(weight)
    assert "heads.0 (largest weight 2e+29 times that of a usual channel)" in warning


def test_many_such_layers_are_counted(warnings_of, generator):
    (warning,) = warnings_of(*(spoiled(generator) for _ in range(5)))
    assert warning.count("rms") == 3
    assert "and 2 more" in warning


def test_nothing_is_said_of_ordinary_layers(warnings_of, generator):
    assert warnings_of(torch.randn(1, NUM_INPUTS, generator=generator), torch.zeros(1, NUM_INPUTS)) == []


@pytest.mark.parametrize("score", [float("inf"), float("-inf"), float("nan")])
def test_an_allocation_with_a_score_that_is_not_finite_is_json(score):
    layers = [Layer("a", torch.zeros(2, 3))]
    text = allocation_json(Allocation({"a": 4}, {"a": score}), layers)
    (line,) = json.loads(text, parse_constant=pytest.fail)["layers"]
    assert repr(float(line["score"])) == repr(score)


def test_images_that_come_in_another_order_each_time_are_refused():
    logits, labels = torch.eye(4), torch.tensor([0, 1, 2, 2])
    assert compare("x", Outputs(logits, labels), Outputs(logits, labels))["x/agreement"] == 100
    with pytest.raises(InputError, match="the evaluation images come in another order each time"):
        compare("x", Outputs(logits, labels), Outputs(logits, labels.flip(0)))
    assert compare("x", Outputs(logits, None), Outputs(logits, labels))["x/agreement"] == 100
