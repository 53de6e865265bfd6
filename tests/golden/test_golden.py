import copy
import json

import pytest
from tests.golden.runs import FILE, RUNS, SLOW, machine, outcome
from tests.slow import parameters
from torch import nn

from attnround.experiment import quantizing, stages
from attnround.graph import Captured, captured

GOLDEN = json.loads(FILE.read_text())
CAPTURED: dict[str, Captured] = {}  # by the architecture's name


@pytest.fixture(autouse=True)
def without_what_no_number_depends_on(monkeypatch):
    """Most of such a short run goes into the capture of its model, of which there are two, and into pictures."""

    def copied(model: nn.Module) -> Captured:
        name = model.pretrained_cfg["architecture"]
        if name not in CAPTURED:
            CAPTURED[name] = captured(model)
        return copy.deepcopy(CAPTURED[name])

    monkeypatch.setattr(stages, "captured", copied)
    monkeypatch.setattr(quantizing, "draw", lambda *_: [])


def test_every_run_is_kept():
    assert list(GOLDEN["runs"]) == list(RUNS)


def test_nearest_means_one_thing():
    """What every run compares itself with is what quantizer=nearest gives, to the bit."""
    run = GOLDEN["runs"]["nearest"]
    assert run["nearest/sqnr_db"] == run["quantized/sqnr_db"]
    assert len({each["nearest/sqnr_db"] for name, each in GOLDEN["runs"].items() if name in ("gptq", "adaround")}) == 1


@pytest.mark.parametrize("name", parameters(RUNS, SLOW))
def test_a_run_gives_what_it_gave(name, tmp_path):
    kept, found = GOLDEN["runs"][name], outcome(name, tmp_path)
    if machine() == GOLDEN["machine"]:
        assert found == kept
    else:  # sums in another order may turn a rounding here and there
        for key in ("nearest/sqnr_db", "quantized/sqnr_db"):
            assert found[key] == pytest.approx(kept[key], abs=0.5), key
        assert found["bits/mean"] == pytest.approx(kept["bits/mean"], abs=0.05)
