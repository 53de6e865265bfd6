from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from attnround.bits.clusters import cluster


def spread(values: list[float], labels: list[int]) -> float:
    total = 0.0
    for label in set(labels):
        members = [value for value, each in zip(values, labels, strict=True) if each == label]
        mean = sum(members) / len(members)
        total += sum((value - mean) ** 2 for value in members)
    return total


@given(st.lists(st.integers(0, 30).map(float), min_size=1, max_size=8), st.integers(1, 4))
def test_no_other_cut_of_the_line_is_better(values, num_clusters):
    labels = cluster(values, num_clusters)
    order = sorted(set(values))
    cuts = combinations(range(1, len(order)), min(num_clusters, len(order)) - 1)
    best = min(spread(values, [sum(order.index(value) >= cut for cut in each) for value in values]) for each in cuts)
    assert abs(spread(values, labels) - best) < 1e-6
    assert sorted(set(labels)) == list(range(min(num_clusters, len(order))))


@given(st.lists(st.floats(0, 10), min_size=2, max_size=30), st.integers(1, 7))
def test_clusters_ascend_with_the_values(values, num_clusters):
    labels = cluster(values, num_clusters)
    pairs = sorted(zip(values, labels, strict=True))
    assert [label for _, label in pairs] == sorted(labels)
