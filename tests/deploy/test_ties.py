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
    assert once.draws == again.draws
    assert len({each.sqnr_db for each in once.draws}) == len(once.draws) == 4
    assert abs(once.itself.sqnr_db - found.sqnr_db) < 6


def test_few_images_have_more_draws(model, batches, in_doubt):
    """Of eight images most take no code to a tie's other side."""
    few = [(batches[0][0][:8], None)]
    ties = Ties(model, lambda: few)
    (wrong,) = compare(model, [lambda images: 1.1 * model(images)], few)
    assert ties.fault(wrong, quantized_inputs=True).startswith("it agrees")
    assert len(ties.draws) == 32


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


def compared(change, expected=None, noise=0.01):
    """What a change of outputs is, and the same outputs with so much noise as the only draw."""
    torch.manual_seed(0)
    expected = expected or {"logits": torch.randn(100, 5)}
    found, tied = Comparison(), Comparison()
    found.add(expected, change({name: each.clone() for name, each in expected.items()}), None, "logits")
    noisy = {name: each + noise * torch.randn_like(each) for name, each in expected.items() if name == "logits"}
    tied.add(expected, expected | noisy, None, "logits")
    return found, tied


def test_as_many_classes_as_ties_change_are_excused_and_not_all():
    """A loud logit that is no class hides in the energy that the others were exchanged."""
    loud = {"logits": torch.cat([torch.full((100, 1), -1e4), torch.randn(100, 4)], 1)}
    found, tied = compared(lambda y: {"logits": y["logits"][:, [0, 2, 3, 4, 1]]}, loud, noise=1.0)
    assert found.lost == 100
    assert 0 < tied.lost < 49
    assert found.energies["logits"][1] < 4 * tied.energies["logits"][1]
    assert found.fault(True, ties=[tied]).startswith("it agrees with the simulation on 0.00 %")


def test_an_output_that_no_tie_reaches_stands_in_no_ones_way():
    """Of floats alone: a runtime's own rounding is there, and no tie is."""
    torch.manual_seed(0)
    both = {"logits": torch.randn(100, 5), "contrast": torch.rand(100, 3)}
    found, tied = compared(lambda y: {"logits": y["logits"] + 0.01, "contrast": y["contrast"] * (1 + 1e-7)}, both)
    found.agreeing -= 1
    assert tied.energies["contrast"][1] == 0 < found.energies["contrast"][1]
    assert found.fault(True).startswith("it agrees")
    assert found.fault(True, ties=[tied]) is None


def test_an_output_by_its_energy_is_excused_where_ties_explain_it():
    """As those of 2 bits in deep networks are, which no runtime follows by 20 dB."""
    boxes = {"logits": torch.eye(5).repeat(20, 1), "boxes": torch.randn(100, 4)}
    found, tied = compared(lambda y: y | {"boxes": y["boxes"] + 0.2}, boxes)
    assert re.match(r"its output boxes follows the simulation's by 1\d.\d dB, 20", found.fault(True, ties=[tied]))
    tied.energies["boxes"] = found.energies["boxes"]
    assert found.fault(True, ties=[tied]) is None


def test_an_output_that_is_not_there_is_named():
    both = {"logits": torch.randn(100, 5), "boxes": torch.randn(100, 4)}
    found, _ = compared(lambda y: {"logits": y["logits"], "box": y["boxes"]}, both)
    assert found.fault(True) == "it has no output boxes of the simulation's shape"


def test_infinite_logits_hide_nothing():
    masked = {"logits": torch.randn(100, 5).index_fill(1, torch.tensor(2), -torch.inf)}
    same, tripled = (compared(change, masked)[0] for change in (lambda y: y, lambda y: {"logits": 3 * y["logits"] + 7}))
    assert same.fault(False) is None
    assert tripled.agreement == 100
    assert tripled.fault(False).startswith("its logits differ by")
    assert tripled.fault(True, by_class=False).startswith("its output logits follows the simulation's by -")
