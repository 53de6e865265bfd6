"""What is kept of another form of a model: nothing that is further from the simulation than ties explain."""

import re

import pytest
import torch
from tests.deploy.conftest import exported, images_for
from torch import Tensor

from attnround.deploy import comparison
from attnround.deploy.comparison import Comparison, compare
from attnround.deploy.ties import Ties


@pytest.fixture(scope="module")
def model():
    return exported("efficientnet")[0]


@pytest.fixture(scope="module")
def batches(model):
    return [(images, None) for images in images_for(model, 96, seed=1).split(32)]


@pytest.fixture
def in_doubt(monkeypatch):
    """Everything is, whatever the classes."""
    monkeypatch.setattr(comparison, "LEAST", 100.1)


def without_onednn(model):
    def run(images: Tensor) -> Tensor:
        backend, usual = torch.backends.mkldnn, torch.backends.mkldnn.enabled
        backend.enabled = False
        try:
            return model(images)
        finally:
            backend.enabled = usual

    return run


def test_ties_are_excused_and_a_fault_is_not(model, batches, in_doubt):
    asked = []
    ties = Ties(model, lambda: asked.append(1) or batches)
    found, wrong = compare(model, [without_onednn(model), lambda images: 1.1 * model(images)], batches)
    assert found.fault(quantized_inputs=True).startswith("it agrees")
    assert ties.fault(found, quantized_inputs=True) is None
    assert re.fullmatch(
        r"it agrees .* 100.1 % is asked; it is 20.0 dB from the simulation, which float rounding leaves [3-9]\d\.\d dB "
        r"from itself, of the same class on \d+\.\d\d %",
        ties.fault(wrong, quantized_inputs=True),
    )
    assert asked == [1]


def test_ties_are_what_another_order_of_sums_makes(model, batches, in_doubt):
    """Within a factor of two. And they are the same whenever they are asked for."""
    (found,) = compare(model, [without_onednn(model)], batches)
    once, again = (Ties(model, lambda: batches) for _ in range(2))
    for ties in (once, again):
        assert ties.fault(found, quantized_inputs=True) is None
    assert once.itself == again.itself
    assert abs(once.itself.sqnr_db - found.sqnr_db) < 6


def test_nothing_is_asked_where_nothing_is_in_doubt(model, batches):
    ties = Ties(model, lambda: pytest.fail("asked"))
    (found,) = compare(model, [model], batches)
    assert ties.fault(found, quantized_inputs=True) is None
    assert ties.itself is None


@pytest.mark.parametrize(("value", "quantized_inputs"), [(torch.nan, True), (torch.nan, False), (3.0, False)])
def test_neither_nan_nor_what_floats_give_is_excused(model, value, quantized_inputs, in_doubt):
    found = Comparison()
    found.add(torch.randn(8, 7), torch.full((8, 7), value), None)
    ties = Ties(model, lambda: pytest.fail("asked"))
    assert ties.fault(found, quantized_inputs) == found.fault(quantized_inputs) is not None
