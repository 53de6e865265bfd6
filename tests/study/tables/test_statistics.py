import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attnround.study.tables.statistics import Difference, are_same, crossed, paired, paired_top1, spread


def right(share: float, shape: tuple[int, int], seed: int) -> dict[int, np.ndarray]:
    """Which images a method has right, by its seeds."""
    drawn = np.random.default_rng(seed).random(shape) < share
    return dict(enumerate(drawn))


def by_seed(values) -> dict[int, float]:
    return {seed: float(value) for seed, value in enumerate(values)}


def test_paired_numbers_are_scipys_paired_t():
    a, b = np.random.default_rng(0).normal(30, 1, (2, 5))
    got, expected = paired(by_seed(a), by_seed(b)), stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert got.mean == pytest.approx((a - b).mean())


def test_seeds_that_are_identical_leave_the_paired_t_of_the_images():
    a, b = (right(share, (1, 400), seed)[0] for share, seed in ((0.9, 0), (0.85, 1)))
    got = paired_top1(dict.fromkeys(range(3), a), dict.fromkeys(range(3), b))
    expected = stats.ttest_rel(100.0 * a, 100.0 * b).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_one_seed_takes_the_images_alone():
    a, b = right(0.9, (1, 400), 0), right(0.85, (1, 400), 1)
    got, expected = paired_top1(a, b), stats.ttest_rel(100.0 * a[0], 100.0 * b[0]).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert got.num_seeds == 1


def test_images_without_number_leave_the_paired_t_of_the_seeds():
    rng = np.random.default_rng(0)
    seeds = rng.normal(1, 2, (6, 1))
    got = crossed(seeds + rng.normal(0, 1, (6, 200_000)) * 1e-3)
    expected = stats.ttest_1samp(seeds[:, 0], 0).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), rel=1e-3)


def test_degrees_of_freedom_are_those_of_welchs_test():
    """v_images and v_seeds of an additive table are the two terms of Welch's test of its margins."""
    rng = np.random.default_rng(0)
    images, seeds = rng.normal(0, 1, 12), rng.normal(3, 2, 4)
    got = crossed(images[None, :] + seeds[:, None])
    welch = stats.ttest_ind(seeds, -images, equal_var=False)
    expected = welch.confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


@pytest.mark.parametrize(("images", "seeds", "rest"), [(1, 1, 1), (3, 0.1, 1), (0.1, 1, 1), (0, 0, 1), (1, 0, 0)])
@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_coverage_of_crossed_effects(images, seeds, rest, num_seeds):
    """seeds: the spread of a seed's mean in units of the image effect's standard error."""
    rng = np.random.default_rng(num_seeds)
    trials, n = 1000, 60
    covered = 0
    for _ in range(trials):
        table = images * rng.normal(size=n) + rest * rng.normal(size=(num_seeds, n))
        got = crossed(table + seeds * rng.normal(size=(num_seeds, 1)) / math.sqrt(n))
        covered += got.low <= 0 <= got.high
    assert covered / trials >= 0.93


def test_seeds_that_draw_images_of_their_own_say_no_more_of_images_than_one():
    """Three seeds draw 90 of 100 images each; two methods that are alike differ by chance in 5 % of the intervals."""
    rng = np.random.default_rng(0)
    wrong = dict.fromkeys((True, False), 0)
    for _ in range(600):
        images = rng.normal(size=100)
        table = np.stack([images[np.sort(rng.permutation(100)[:90])] for _ in range(3)])
        table += 0.3 * rng.normal(size=table.shape)
        for same_images in wrong:
            got = crossed(table, same_images)
            wrong[same_images] += not got.low <= 0 <= got.high
    assert wrong[False] < 0.06 * 600 < 0.12 * 600 < wrong[True]


@pytest.mark.parametrize(("num_seeds", "most"), [(2, 0.14), (3, 0.09)])
def test_few_seeds_miss_more_than_they_promise(num_seeds, most):
    """What the docstring of `crossed` says of the worst."""
    rng, n = np.random.default_rng(0), 60
    ratio = {2: 5, 3: 2}[num_seeds]
    tables = rng.normal(size=(1500, 1, n)) + ratio * rng.normal(size=(1500, num_seeds, 1)) * math.sqrt(num_seeds / n)
    found = map(crossed, tables)
    missed = sum(not got.low <= 0 <= got.high for got in found) / len(tables)
    assert 0.06 < missed < most


def test_images_are_the_same_where_the_float_model_has_the_same_right():
    one = np.random.default_rng(0).random(5000) < 0.9
    other = one.copy()
    other[:5] = ~other[:5]
    assert are_same([])
    assert are_same([one, one, other])
    other[5] = ~other[5]
    assert not are_same([one, one, other])
    assert not are_same([one, one[:-1]])


@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_swapping_the_methods_mirrors_the_interval(num_seeds, num_images, seed):
    a, b = right(0.6, (num_seeds, num_images), seed), right(0.5, (num_seeds, num_images), seed + 1)
    one, other = paired_top1(a, b), paired_top1(b, a)
    assert one.mean == -other.mean
    assert one.significant == other.significant
    if one.low is not None:
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
        assert one.low <= one.mean <= one.high


def test_no_difference_at_all_is_an_interval_of_nothing():
    a = right(0.9, (3, 50), 0)
    assert paired_top1(a, a) == Difference(0.0, 0.0, 0.0, 3)
    assert not paired_top1(a, a).significant
    assert paired({0: 1.5, 1: 2.5}, {0: 1.5, 1: 2.5}) == Difference(0.0, 0.0, 0.0, 2)
    assert paired({0: math.inf, 1: math.inf}, {0: math.inf, 1: math.inf}) == Difference(0.0, 0.0, 0.0, 2)


def test_the_common_seeds_are_paired():
    a, b = right(0.9, (3, 200), 0), right(0.7, (3, 200), 1)
    some = {seed: b[seed] for seed in (2, 1)} | {9: b[0]}
    assert paired_top1(a, some) == paired_top1({1: a[1], 2: a[2]}, {1: b[1], 2: b[2]})
    assert paired({0: 1.0, 1: 3.0}, {1: 1.0, 2: 7.0}) == Difference(2.0, None, None, 1)


def test_what_cannot_be_paired_is_none():
    a = right(0.9, (1, 200), 0)
    assert paired_top1(a, {1: a[0]}) is None
    assert paired_top1(a, {0: a[0][:100]}) is None
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_infinity_has_no_interval():
    got = paired({0: math.inf, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert (got.mean, got.low, got.significant) == (math.inf, None, False)
    assert spread([math.inf, 1.0]).std is None


def test_spread():
    values = [93.1, 93.4, 92.9]
    got = spread(values)
    assert (got.mean, got.std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))


@pytest.mark.parametrize(("gained", "significant"), [(60, True), (6, False)])
def test_a_clear_difference_is_significant_and_a_small_one_is_not(gained, significant):
    """Of 1000 images the better one has some more right, and loses some others."""
    b = np.arange(1000) < 900
    a = b.copy()
    a[900 : 900 + gained], a[:4] = True, False
    got = paired_top1({0: a, 1: a, 2: a}, {0: b, 1: b, 2: b})
    assert got.mean == pytest.approx((gained - 4) / 10)
    assert got.significant is significant
