"""bits=auto that was killed: budgets that were tried are not tried again, and those of another run are refused."""

import pytest
import torch
from torch import nn

from attnround.api import LAYER
from attnround.bits import Auto, Mixed
from attnround.errors import InputError
from attnround.experiment.trials import Trials
from attnround.prepared import Prepared, start_at_smallest
from attnround.quantization.ranges import Float

TRIALS = [{"budget": 8.0, "mean_bits": 7.9, "agreement": 100.0}, {"budget": 5.0, "mean_bits": 5.0, "agreement": 97.5}]


def test_what_was_tried_is_read_again_and_another_run_is_refused(tmp_path):
    kept = Trials(tmp_path / "trials.json", "it")
    assert kept.read() == []
    kept.write(TRIALS)
    assert kept.read() == TRIALS
    with pytest.raises(InputError, match=r"another config \(it, this one is other\): repeat that run's options"):
        Trials(kept.path, "other").read()
    kept.path.write_text(kept.path.read_text().replace("97.5", "99.5"))
    with pytest.raises(InputError, match="damaged or edited since it was written; remove it to start anew"):
        kept.read()


def test_budgets_that_buy_the_same_bits_are_quantized_once():
    torch.manual_seed(0)
    prepared = Prepared(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 8)), torch.randn(32, 1, 6, 6))
    for candidates, tried, rounded_as_often in (([4], 1, 1), ([2, 8], 9, 4)):
        rounded, auto = [], Auto(allocator=Mixed(candidates=candidates), max_drop=100, num_trials=8)
        found = start_at_smallest(
            prepared, auto, Float(), LAYER(), device="cpu", seed=0, rounded=rounded.append
        )  # fmt: skip
        assert len(found.allocation.trials) == tried
        assert len(rounded) <= rounded_as_often


@pytest.mark.parametrize("already", [0, 1, 3])
def test_a_search_goes_on_from_what_was_tried(already):
    torch.manual_seed(0)
    prepared = Prepared(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 8)), torch.randn(32, 1, 6, 6))
    auto = Auto(allocator=Mixed(), max_drop=10, num_trials=2)

    def search(**more):
        rounded = []
        found = start_at_smallest(
            prepared, auto, Float(), LAYER(), device="cpu", seed=0, rounded=rounded.append, **more
        )  # fmt: skip
        return found, len(rounded)

    whole, count = search()
    trials = whole.allocation.trials
    assert count == len(trials) == 3
    told = []
    found, count = search(known=trials[:already], tried=lambda trials: told.append([*trials]))
    assert count == 3 - already
    assert found.allocation.trials == trials
    assert found.allocation.bit_width == whole.allocation.bit_width
    assert told == [trials[:known] for known in range(already + 1, 4)]


def test_a_budget_out_of_reach_leaves_what_an_earlier_run_left(train, tmp_path):
    small = "data.limit=50", "data.num_calibration=64", "quantizer=nearest", "hydra.run.dir=run"

    def left() -> dict[str, bytes]:
        return {
            each.name: each.read_bytes() for each in (tmp_path / "run").iterdir() if each.suffix in (".json", ".md")
        }

    done = train(*small, "bits=uniform")
    assert done.returncode == 0, done.stderr
    before = left()
    assert "record.json" in before
    refused = train(*small, "bits=auto", "bits.allocator.candidates=[2]")
    assert refused.returncode == 1
    assert "bits.max_drop=0.5 is out of reach" in refused.stderr
    assert left() == before
