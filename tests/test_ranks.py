import copy
import threading

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import TensorDataset

import attnround
from attnround import ranks
from attnround.api import LAYER
from attnround.bits import Mixed
from attnround.errors import InputError
from attnround.prepared import Prepared
from attnround.quantization.histogram import Histogram
from attnround.ranks import Ranks, joined

WAIT_S = 600  # for the others, on however busy a machine


class Together:
    """Threads in place of processes: what they exchange goes through here."""

    def __init__(self, monkeypatch, size: int):
        self.size, self.barrier = size, threading.Barrier(size, timeout=WAIT_S)
        self.given: list = [None] * size
        monkeypatch.setattr(dist, "all_reduce", self.all_reduce)
        monkeypatch.setattr(dist, "all_gather_object", self.all_gather_object)
        monkeypatch.setattr(dist, "broadcast_object_list", self.broadcast_object_list)

    def run(self, work, *arguments) -> list:
        """What `work` returns in each, with copies of the arguments of its own."""
        found: list = [None] * self.size

        def one(rank: int) -> None:
            try:
                with joined(Ranks(rank, self.size)):
                    found[rank] = work(*copied[rank])
            except Exception as error:
                found[rank] = error
                self.barrier.abort()

        copied = [copy.deepcopy(arguments) for _ in range(self.size)]
        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def exchange(self, value: object) -> list:
        self.given[ranks.rank()] = copy.deepcopy(value)
        self.barrier.wait()
        given = copy.deepcopy(self.given)
        self.barrier.wait()
        return given

    def all_reduce(self, tensor) -> None:
        tensor.copy_(sum(self.exchange(tensor)))

    def all_gather_object(self, found: list, value: object) -> None:
        found[:] = self.exchange(value)

    def broadcast_object_list(self, found: list, source: int) -> None:
        found[:] = self.exchange(found)[source]


class Net(nn.Module):
    """Of more places than are drawn; one convolution is called twice, and depthwise ones and a sum are there too."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise, self.head = nn.Conv2d(8, 8, 3, groups=8, stride=2), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.twice(self.twice(x).relu())
        return self.head(self.depthwise(x).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def prepared():
    torch.manual_seed(0)
    return Prepared(Net(), torch.randn(23, 3, 12, 12))


def quantized(prepared: Prepared, kind: str = "logits") -> dict[str, torch.Tensor]:
    settings = LAYER(batch_size=3, held_out=0.2, output_metric=kind)  # 7 batches to learn from, 2 held out
    found = attnround.quantize(
        prepared, bits=Mixed(budget=3.0), rounding="gptq", activation=8, reconstruction=settings, progress=False
    )
    return found.model.state_dict()


@pytest.mark.parametrize(("size", "kind"), [(2, "logits"), (3, "fisher")])
def test_together_they_come_to_what_one_comes_to(prepared, monkeypatch, size, kind):
    """To the bit, also where one has no batch that is held out; the images' places and projections are drawn alike."""
    monkeypatch.setattr("attnround.calibration.output_metric.BATCH_SIZE", 4)
    alone = quantized(copy.deepcopy(prepared), kind)
    for found in Together(monkeypatch, size).run(quantized, prepared, kind):
        assert found.keys() == alone.keys()
        assert all(found[key].equal(alone[key]) for key in alone)


def test_integers_are_the_first_ones_where_devices_are_unlike(prepared, monkeypatch):
    from attnround.reconstruction.layer import LayerUnit

    decide = LayerUnit._bake_decision

    def unlike(self) -> None:
        decide(self)
        if ranks.rank():
            self._bake(self.layer.levels.clamp(max=0), self.start_scale)

    monkeypatch.setattr(LayerUnit, "_bake_decision", unlike)
    alone = quantized(copy.deepcopy(prepared))
    for found in Together(monkeypatch, 2).run(quantized, prepared):
        assert all(found[key].equal(alone[key]) for key in alone)


def test_other_images_are_refused(prepared, monkeypatch):
    def work(prepared: Prepared):
        if ranks.rank():
            prepared.__setstate__({"_images": prepared.images.flip(0)})
        return quantized(prepared)

    errors = Together(monkeypatch, 2).run(work, prepared)
    assert all(isinstance(error, InputError | threading.BrokenBarrierError) for error in errors)
    assert any("process 2 has other images" in str(error) for error in errors)


def test_batches_are_taken_in_turn_and_put_together_in_order(monkeypatch):
    dataset = TensorDataset(torch.arange(11))

    def work():
        items = [int(item) for (item,) in ranks.own_items(dataset, 2)]
        batches = list(ranks.OwnBatches(range(7)))
        return items, batches, len(ranks.OwnBatches(range(7))), ranks.all_batches(batches)

    first, second, third = Together(monkeypatch, 3).run(work)
    assert [each[0] for each in (first, second, third)] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10]]
    assert [each[1] for each in (first, second, third)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [each[2] for each in (first, second, third)] == [3, 2, 2]
    assert first[3] == second[3] == third[3] == list(range(7))


def test_alone_nothing_is_exchanged(monkeypatch):
    for name in ("all_reduce", "all_gather_object", "broadcast_object_list"):
        monkeypatch.setattr(dist, name, None)
    tensor = torch.ones(2)
    assert ranks.summed({"a": tensor})["a"] is tensor
    assert ranks.gathered(3) == [3] == [ranks.from_first(3)] == ranks.all_batches([3])
    ranks.check_same(tensor)


def test_histograms_add_up():
    torch.manual_seed(0)
    parts = [torch.randn(500) * scale for scale in (1e-3, 20.0, 1.0)]
    whole, sum_of_parts = Histogram(), Histogram()
    for part in parts:
        one = Histogram()
        one.update(part)
        sum_of_parts.add(one)
        whole.update(part)
    assert vars(whole).keys() == vars(sum_of_parts).keys()
    assert whole.counts.equal(sum_of_parts.counts)
    assert all(getattr(whole, name) == getattr(sum_of_parts, name) for name in ("low", "high", "zeros", "first"))
    assert whole.exponent == sum_of_parts.exponent
