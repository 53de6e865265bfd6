import torch

from attnround.calibration.slab import Slab


def test_values_stay_what_they_are_and_take_the_place_of_earlier_ones():
    slab = Slab()
    first = {"a": torch.randn(2, 3, 5, 5).contiguous(memory_format=torch.channels_last), "b": (torch.randn(7), 3, None)}
    held = slab.hold(first)
    assert held["a"].equal(first["a"])
    assert held["a"].stride() == first["a"].stride()
    assert held["b"][0].equal(first["b"][0])
    assert held["b"][1:] == (3, None)
    size, kept = len(slab.memory), held["b"][0].clone()
    again = slab.hold({"c": torch.ones(100), "d": held["b"][0]})  # what stays moves to another place of the same memory
    assert again["c"].equal(torch.ones(100))
    assert again["d"].equal(kept)
    assert len(slab.memory) == size
    grown = slab.hold({"d": again["d"], "e": torch.zeros(10_000), "twice": again["d"]})
    assert grown["d"].equal(kept)
    assert grown["twice"].data_ptr() == grown["d"].data_ptr()
    assert len(slab.memory) > size


def test_what_is_not_dense_or_learned_stays_where_it_is():
    values = torch.ones(3, 1).expand(3, 4), torch.nn.Parameter(torch.ones(2)), torch.randn(4, 4)[:, :2]
    assert all(held is value for held, value in zip(Slab().hold(values), values, strict=True))


def test_it_gives_back_what_it_no_longer_needs():
    slab = Slab()
    held = slab.hold(torch.randn(1000))
    less = slab.hold(held[:100])
    assert len(slab.memory) < 1000
    assert less.equal(held[:100])
