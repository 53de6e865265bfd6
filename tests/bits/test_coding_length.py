"""The coding length against the determinant in float64, and what it is and is not invariant to."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnround.bits.coding_length import coding_rate, squared_singular_values, weight_rate

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))


def determinant(v: torch.Tensor, eps: float) -> float:
    """R(V) as the paper writes it: 1/2 log2 det(I + n / (m eps^2) V V^T)."""
    n, m = v.shape
    return 0.5 * torch.logdet(torch.eye(n, dtype=torch.double) + n / (m * eps**2) * v @ v.T).item() / math.log(2)


@given(shapes, st.floats(0.05, 2))
def test_rate_is_the_determinant_formula(shape, eps):
    n, m, seed = shape
    v = torch.randn(n, m, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    assert coding_rate(squared_singular_values(v), n, m, eps) == pytest.approx(determinant(v, eps), rel=1e-9, abs=1e-9)


@given(shapes, st.floats(0.1, 2), st.floats(0.01, 100))
def test_scaling_data_and_distortion_together_changes_nothing(shape, eps, factor):
    n, m, seed = shape
    v = torch.randn(n, m, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    rate = coding_rate(squared_singular_values(v), n, m, eps)
    scaled = coding_rate(squared_singular_values(factor * v), n, m, factor * eps)
    assert scaled == pytest.approx(rate, rel=1e-6)


@given(shapes)
def test_a_layer_rate_does_not_depend_on_its_scale(shape):
    n, m, seed = shape
    weight = torch.randn(m, n, generator=torch.Generator().manual_seed(seed))
    assert weight_rate(7 * weight, eps=0.1) == pytest.approx(weight_rate(weight, eps=0.1), rel=1e-4)


def test_it_matters_what_counts_as_the_sample(generator):
    weight = torch.randn(4, 20, generator=generator)
    assert weight_rate(weight, 0.1) != pytest.approx(weight_rate(weight.T, 0.1), rel=0.05)


def test_it_is_not_invariant_to_scaling_filters_apart(generator):
    """Folding a batch norm does just that."""
    weight = torch.randn(8, 20, generator=generator)
    folded = weight * torch.linspace(0.1, 2, 8)[:, None]
    assert weight_rate(folded, 0.1) != pytest.approx(weight_rate(weight, 0.1), rel=0.01)


def test_equal_filters_cost_less_than_different_ones(generator):
    different = torch.randn(16, 32, generator=generator)
    equal = different[:1].expand(16, 32)
    assert weight_rate(equal, 0.1) < 0.25 * weight_rate(different, 0.1)


def test_white_weights_cost_the_rate_of_a_gaussian(generator):
    """With many more filters than dimensions V V^T / m is the identity: R / n = 1/2 log2(1 + 1 / eps^2)."""
    weight = torch.randn(20_000, 8, generator=generator)
    assert weight_rate(weight, 0.1) == pytest.approx(0.5 * math.log2(1 + 1 / 0.01), rel=0.01)


def test_zeros_cost_nothing_and_the_code_book_costs_more(generator):
    assert weight_rate(torch.zeros(3, 4), 0.1) == 0
    weight = torch.randn(6, 3, generator=generator)
    assert weight_rate(weight, 0.1, codebook=True) == pytest.approx(1.5 * weight_rate(weight, 0.1))
