"""What all data modules share: the balanced draw, `limit`, and the loaders."""

from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import ROOT

from attnround.data import FashionMNIST, draw_balanced
from attnround.errors import InputError

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60)


def data(**settings) -> FashionMNIST:
    module = FashionMNIST(str(ROOT / "assets/fashion_mnist"), **settings)
    module.match({"input_size": (1, 28, 28), "mean": (0.286,), "std": (0.353,)}, 10)
    return module


def labels_of(module) -> torch.Tensor:
    return torch.cat([labels for _, labels in module.val_dataloader()])


@given(LABELS, st.integers(1, 60), st.integers(0, 9))
def test_the_draw_is_as_balanced_as_the_labels_allow(labels, num_wanted, seed):
    num_wanted = min(num_wanted, len(labels))
    indices = draw_balanced(labels, num_wanted, seed)
    assert indices == sorted(set(indices))
    assert len(indices) == num_wanted
    drawn, offered = Counter(labels[i] for i in indices), Counter(labels)
    most = max(drawn.values())
    assert all(drawn[label] >= min(most - 1, number) for label, number in offered.items())


@given(LABELS, st.integers(0, 9))
def test_a_larger_draw_holds_the_smaller_ones(labels, seed):
    draws = [set(draw_balanced(labels, n, seed)) for n in range(1, len(labels) + 1)]
    assert all(small < large for small, large in pairwise(draws))


def test_the_draw_is_seeded_and_any_item_may_be_drawn():
    labels = [0, 1] * 10
    assert draw_balanced(labels, 4, 3) == draw_balanced(labels, 4, 3)
    assert {i for seed in range(100) for i in draw_balanced(labels, 4, seed)} == set(range(20))


def test_the_limit_takes_as_many_of_every_class():
    assert labels_of(data(limit=50)).bincount().tolist() == [5] * 10
    assert torch.equal(labels_of(data(limit=50)), labels_of(data(limit=50)))
    first = [next(iter(data(limit=50, seed=seed).val_dataloader()))[0] for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_a_limit_above_the_set_is_refused_before_the_work_begins():
    with pytest.raises(InputError, match=r"^data\.limit=10001: there are 10000 evaluation images; give 1 to 10000"):
        data(limit=10_001)
    with pytest.raises(InputError, match=r"data\.limit=0"):
        data(limit=0)


def test_the_whole_set_may_be_the_limit_and_smaller_than_a_batch():
    assert len(labels_of(data(limit=10_000))) == 10_000
    assert len(labels_of(data(limit=7, batch_size=500))) == 7


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cpu", False), ("mps", False)])
def test_memory_is_pinned_only_for_a_cuda_device(device, pinned):
    module = data()
    assert not module.val_dataloader().pin_memory
    module.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    assert module.val_dataloader().pin_memory is pinned


def test_training_drops_the_incomplete_batch_but_not_the_only_one():
    assert len(data(batch_size=3000).train_dataloader()) == 3
    assert [len(labels) for _, labels in data(batch_size=20_000).train_dataloader()] == [10_000]


def test_no_worker_number_is_one_a_core(monkeypatch):
    from attnround.data import base, cifar

    monkeypatch.setattr(base, "num_cores", lambda: 3)
    assert cifar.CIFAR10("here").num_workers == 3
    monkeypatch.setattr(base, "num_cores", lambda: 128)
    assert cifar.CIFAR10("here").num_workers == base.MOST_WORKERS
    assert cifar.CIFAR10("here", num_workers=0).num_workers == 0
