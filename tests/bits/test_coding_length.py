"""The coding length against the determinant in float64, and what it is and is not invariant to."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnround.bits.coding_length import Convention, coding_rate, squared_singular_values, weight_rate
from attnround.errors import InputError

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
    assert weight_rate(7 * weight) == pytest.approx(weight_rate(weight), rel=1e-4)


def test_it_matters_what_counts_as_the_sample(generator):
    weight = torch.randn(4, 20, generator=generator)
    assert weight_rate(weight) != pytest.approx(weight_rate(weight.T), rel=0.05)


def test_it_is_not_invariant_to_scaling_filters_apart(generator):
    """Folding a batch norm does just that."""
    weight = torch.randn(8, 20, generator=generator)
    folded = weight * torch.linspace(0.1, 2, 8)[:, None]
    assert weight_rate(folded) != pytest.approx(weight_rate(weight), rel=0.01)


def test_equal_filters_cost_less_than_different_ones(generator):
    different = torch.randn(16, 32, generator=generator)
    equal = different[:1].expand(16, 32)
    assert weight_rate(equal) < 0.25 * weight_rate(different)


def test_white_weights_cost_the_rate_of_a_gaussian(generator):
    """With many more filters than dimensions V V^T / m is the identity: R / n = 1/2 log2(1 + 1 / eps^2)."""
    weight = torch.randn(20_000, 8, generator=generator)
    assert weight_rate(weight) == pytest.approx(0.5 * math.log2(1 + 1 / 0.01), rel=0.01)


def test_zeros_cost_nothing_and_the_code_book_costs_more(generator):
    assert weight_rate(torch.zeros(3, 4)) == 0
    weight = torch.randn(6, 3, generator=generator)
    assert weight_rate(weight, Convention(codebook=True)) == pytest.approx(1.5 * weight_rate(weight))


@given(shapes, st.floats(0.05, 2))
def test_the_smaller_gram_matrix_says_the_same(shape, eps):
    """Sylvester: det(I + V V^T) is det(I + V^T V)."""
    n, m, seed = shape
    v = torch.randn(n, m, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    other = torch.logdet(torch.eye(m, dtype=torch.double) + n / (m * eps**2) * v.T @ v).item() / 2 / math.log(2)
    assert coding_rate(squared_singular_values(v), n, m, eps) == pytest.approx(other, rel=1e-9, abs=1e-9)
    assert squared_singular_values(v).tolist() == pytest.approx(squared_singular_values(v.T).tolist(), abs=1e-9)


@given(shapes)
def test_a_rotation_of_the_inputs_or_another_order_of_the_filters_changes_nothing(shape):
    n, m, seed = shape
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(m, n, dtype=torch.double, generator=generator)
    rotation = torch.linalg.qr(torch.randn(n, n, dtype=torch.double, generator=generator)).Q
    assert weight_rate(weight @ rotation) == pytest.approx(weight_rate(weight), rel=1e-6)
    assert weight_rate(weight.flip(0)) == pytest.approx(weight_rate(weight), rel=1e-6)


def test_what_eps_is_relative_to(generator):
    weight = torch.randn(6, 10, generator=generator)
    rms, largest = weight.double().square().mean().sqrt().item(), weight.abs().max().item()
    for relative_to, unit in (("rms", rms), ("max", largest), ("nothing", 1.0)):
        absolute = Convention(eps=0.2 * unit, relative_to="nothing")
        assert weight_rate(weight, Convention(eps=0.2, relative_to=relative_to)) == pytest.approx(
            weight_rate(weight, absolute)
        )


def test_vectors_are_filters_or_inputs(generator):
    weight = torch.randn(6, 10, generator=generator)
    inputs = weight_rate(weight, Convention(vectors="inputs"))
    assert inputs == pytest.approx(weight_rate(weight.T.contiguous()))
    assert inputs != pytest.approx(weight_rate(weight), rel=0.05)


@pytest.mark.parametrize("groups", [1, 3])
def test_weighted_by_its_inputs_it_is_the_length_of_the_outputs(groups, generator):
    """det(I + c W H W^T), group by group: W H W^T is the covariance of what the layer puts out."""
    weight = torch.randn(6, 4, dtype=torch.double, generator=generator)
    mixing = torch.randn(groups, 4, 4, dtype=torch.double, generator=generator)
    covariance = mixing @ mixing.mT
    rows = weight.reshape(groups, -1, 4) @ torch.linalg.cholesky(covariance)
    eps = 0.3 * rows.square().mean().sqrt().item()
    apart = [weight_rate(each, Convention(eps=eps, relative_to="nothing")) for each in rows]
    convention = Convention(input_weighted=True, eps=0.3)
    assert convention.rate(convention.spectrum(weight, covariance)) == pytest.approx(sum(apart) / groups, rel=1e-9)


@pytest.mark.parametrize("options", [{"vectors": "rows"}, {"relative_to": "mean"}, {"eps": 0}])
def test_a_convention_that_is_not_there_is_refused(options):
    with pytest.raises(InputError, match=r"^bits"):
        Convention(**options)
