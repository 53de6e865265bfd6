import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnround.quantization.histogram import Histogram

normal = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)  # products with subnormal ones may round to zero
batches = st.lists(st.lists(normal, min_size=1, max_size=20).map(torch.tensor), min_size=1, max_size=5)


def counted(values: list[torch.Tensor], num_bins: int = 16) -> Histogram:
    histogram = Histogram(num_bins)
    for each in values:
        histogram.update(each)
    return histogram


@given(batches)
def test_counts_are_numpys_between_the_same_edges(values):
    histogram = counted(values)
    joined = torch.cat(values).double().numpy()
    bins = np.searchsorted(histogram.edges.numpy(), joined, side="right") - 1  # an edge belongs to the bin above it
    assert histogram.counts.tolist() == np.bincount(bins, minlength=16).tolist()
    assert histogram.zeros == (joined == 0).sum()
    assert (histogram.low, histogram.high) == (min(joined.min(), 0), max(joined.max(), 0))
    assert 0 in histogram.edges


@given(batches)
def test_the_order_of_the_batches_changes_nothing(values):
    one, other = counted(values), counted(values[::-1])
    assert torch.equal(one.counts, other.counts)
    assert torch.equal(one.edges, other.edges)


@given(st.floats(1e-20, 1e20), st.booleans())
def test_the_bins_are_as_fine_as_the_range_allows(size, negative):
    values = torch.linspace(-size if negative else 0, size, 1000)
    histogram = counted([values], 64)
    assert 15 < (histogram.high - histogram.low) / histogram.width <= 64


def test_quantiles_of_an_even_spread():
    histogram = counted([torch.linspace(-1, 3, 100_001)], 2048)
    for fraction in (0, 0.001, 0.25, 0.5, 0.9999, 1):
        assert histogram.quantile(fraction) == pytest.approx(-1 + 4 * fraction, abs=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="NaN"):
        Histogram().update(torch.tensor([0.0, bad]))


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e-40, 0.0], [1e38, -1e38]])
def test_the_ends_of_float32_are_counted(values):
    histogram = counted([torch.tensor(values)], 2048)
    assert histogram.counts.sum() == 2
