import torch
from hypothesis import given
from hypothesis import strategies as st

from attnround.deploy.packing import pack, unpack
from attnround.quantization.grid import BIT_WIDTHS, Grid

grids = st.builds(Grid, st.sampled_from(BIT_WIDTHS), st.booleans())
shapes = st.lists(st.integers(1, 7), min_size=1, max_size=4)


def draw(grid: Grid, shape: list[int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(grid.qmin, grid.qmax + 1, shape, generator=generator).to(grid.dtype)


@given(grids, shapes, st.integers(0, 2**32))
def test_levels_come_back_from_as_few_bytes_as_hold_them(grid, shape, seed):
    levels = draw(grid, shape, seed)
    packed = pack(levels, grid)
    assert packed.dtype == torch.uint8
    assert packed.shape == (-(-levels.numel() * grid.bit_width // 8),)
    back = unpack(packed, shape, grid)
    assert back.dtype == levels.dtype
    assert torch.equal(back, levels)


@given(grids, shapes, st.integers(0, 2**32))
def test_the_bits_are_those_of_one_long_number(grid, shape, seed):
    levels = draw(grid, shape, seed)
    number = sum((level - grid.qmin) << (i * grid.bit_width) for i, level in enumerate(levels.flatten().tolist()))
    assert int.from_bytes(bytes(pack(levels, grid).tolist()), "little") == number


def test_strides_do_not_matter():
    levels = draw(Grid(3), [5, 7], 0)
    assert torch.equal(unpack(pack(levels.T, Grid(3)), (7, 5), Grid(3)), levels.T)
