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
