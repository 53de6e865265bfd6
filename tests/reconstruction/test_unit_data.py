"""Each storage gives back what was written, and a block replays from it."""

import pytest
import torch

from attnround.calibration.cache import STORAGES, ActivationCache, Slice, choose_storage
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.observer import ClipSearch
from attnround.quantization.rounding import AttentionRound
from attnround.reconstruction import BlockReconstruction
from attnround.reconstruction.block_objective import BlockObjective
from attnround.reconstruction.unit_data import UnitData, channel_dim

SHAPE = (4, 6, 5)
QUANTIZER = ActivationQuantizer(0.1, 20, 6)


def filled(storage: str) -> tuple[ActivationCache, torch.Tensor]:
    values = torch.randn(10, *SHAPE, generator=torch.Generator().manual_seed(0))
    coding = {}
    if storage == "codes":
        values, coding = QUANTIZER(values).detach(), {"encode": QUANTIZER.codes, "decode": QUANTIZER.decode}
    cache = ActivationCache(10, torch.Size(SHAPE), storage, **coding)
    for first in range(0, 10, 4):  # the last batch is a smaller one
        cache.write(first, values[first : first + 4])
    return cache, values


@pytest.mark.parametrize("storage", STORAGES)
def test_what_was_written_is_read_in_any_order(storage):
    cache, values = filled(storage)
    assert len(cache) == 10
    bound = 2**-8 if storage == "bfloat16" else 0  # half of bfloat16's last place
    for images in (slice(0, 10), slice(8, 10), torch.tensor([7]), torch.tensor([3, 9, 0, 3])):
        read = cache[images]
        assert read.dtype == torch.float32
        assert ((read - values[images]).abs() <= bound * values[images].abs()).all()
    assert torch.equal(Slice(cache, 2, 5).load(), cache[2:5])


@pytest.mark.parametrize("storage", STORAGES)
def test_the_memory_format_is_kept(storage):
    """Or a run that is gone on with, whose images lie as the network gives them, would sum in another order."""
    _, values = filled(storage)
    coding = {"encode": QUANTIZER.codes, "decode": QUANTIZER.decode} if storage == "codes" else {}
    cache = ActivationCache(10, torch.Size(SHAPE), storage, last=True, **coding)
    cache.write(0, values.contiguous(memory_format=torch.channels_last))
    read = cache[2:7]
    assert read.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(read, values[2:7], rtol=2**-8, atol=0)


@pytest.mark.parametrize("shape", [(16, 32, 7, 7), (16, 49, 32), (16, 7, 7, 32)])
def test_an_error_is_summed_over_channels_wherever_they_are(shape):
    targets = ActivationCache(16, torch.Size(shape[1:]), "float32")
    targets.write(0, torch.randn(shape))
    dim = channel_dim(torch.Size(shape), 32)
    objective = BlockObjective(UnitData(targets, targets, targets, None, 0, channel_dim=dim), 8)
    error = objective(targets[:] + 32**-0.5, targets[:], None)  # 1, summed over the channels
    assert error.item() == pytest.approx(objective.unit, rel=1e-5)


def test_bfloat16_is_rounded_and_codes_are_a_quarter():
    cache, values = filled("bfloat16")
    assert torch.equal(cache[:], values.bfloat16().float())
    cache, values = filled("codes")
    assert 4 * cache.data.nbytes == values.nbytes


@pytest.mark.parametrize("storage", STORAGES)
def test_the_factor_scales_what_is_read_and_not_what_is_kept(storage):
    cache, _ = filled(storage)
    before = cache[:].clone()
    cache.factor = 3.0
    assert torch.equal(cache[:], before * 3)
    cache.factor = 1.0
    assert torch.equal(cache[:], before)


@pytest.mark.parametrize("num_values", [0, 1, 1000, 2**18])
def test_the_budget_chooses_the_first_storage_that_fits(num_values):
    mib = num_values * 4 / 2**20
    assert choose_storage(num_values, mib) == "float32"
    if num_values:
        assert choose_storage(num_values, mib * 0.999) == choose_storage(num_values, mib / 2) == "bfloat16"
        assert choose_storage(num_values, mib * 0.499) == choose_storage(num_values, 0) == "disk"


@pytest.mark.parametrize("granularity", ["layer", "block", "network"])
@pytest.mark.parametrize("cache_mib", [0, 100], ids=["disk", "float32"])
def test_a_unit_replays_its_block_from_its_data(blocks, granularity, cache_mib):
    """Targets are the float block's on the inputs kept, and the inputs those of a forward pass, to the bit."""
    settings = BlockReconstruction(
        observer=ClipSearch(), granularity=granularity, batch_size=16, cache_mib=cache_mib, held_out=0.25
    )
    seen = {}
    for model, key in ((blocks.teacher, "float"), (blocks.student, "quantized")):
        model.one.first.register_forward_pre_hook(lambda _, args, key=key: seen.setdefault(key, []).append(args[0]))
    index = {"layer": 1, "block": 1, "network": 0}[granularity]
    unit, loop = blocks.begin(AttentionRound(num_steps=1), settings, index)
    data = unit.data
    assert data.inputs.storage == ("float32" if cache_mib else "disk")
    assert (data.num_learned, data.num_held_out) == (36, 12)
    sizes = (16, 16, 4, 12)
    if index:
        seen.clear()
        with torch.no_grad():
            for images in blocks.images.split(sizes):
                blocks.teacher(images)
                blocks.student(images)
        assert torch.equal(data.inputs[:], torch.cat(seen["float"]))
        assert torch.equal(data.quantized[:], torch.cat(seen["quantized"]))
    block = {
        "layer": lambda x: blocks.teacher.one.first(x).relu(),
        "block": lambda x: (x + blocks.teacher.one.second(blocks.teacher.one.first(x).relu())).relu(),
        "network": blocks.teacher,
    }[granularity]
    with torch.no_grad():
        replayed = torch.cat([block(x) for x in data.inputs[:].split(sizes)])
    assert torch.equal(data.targets[:], replayed)
    layers = {key: loop.teacher.get_submodule(key).weight.detach() for key in unit.layers}
    with torch.no_grad():  # with the float weights in its place the student's part is the float block
        biased = torch.cat([unit._forward(layers, x) for x in data.inputs[:].split(sizes)])
    assert torch.equal(biased, replayed)
