"""Clusters on a line: one-dimensional k-means, exact, by dynamic programming."""

from collections.abc import Sequence
from itertools import accumulate


def cluster(values: Sequence[float], num_clusters: int) -> list[int]:
    """The cluster of each value, 0 the lowest, so that the squared distances to the clusters' means are least.

    Where there are fewer different values than clusters, each has one of its own.

    >>> cluster([1.0, 9.0, 1.2, 5.0, 9.1], 3)
    [0, 2, 0, 1, 2]
    """
    order = sorted(set(values))
    weights = [values.count(value) for value in order]
    sums, squares, counts = (
        [0.0, *accumulate(n * value**power for n, value in zip(weights, order, strict=True))] for power in (1, 2, 0)
    )

    def spread(start: int, end: int) -> float:
        """Squared distances of the values from start to before end to their mean."""
        total, count = sums[end] - sums[start], counts[end] - counts[start]
        return squares[end] - squares[start] - total * total / count

    n, k = len(order), min(num_clusters, len(order))
    least = [0.0] + [float("inf")] * n  # of the first values in as many clusters as were opened
    starts = []
    for _ in range(k):
        best = [min(((least[i] + spread(i, j), i) for i in range(j)), default=(float("inf"), 0)) for j in range(n + 1)]
        least = [error for error, _ in best]
        starts.append([start for _, start in best])
    place: dict[float, int] = {}
    end = n
    for number in reversed(range(k)):
        start = starts[number][end]
        place |= dict.fromkeys(order[start:end], number)
        end = start
    return [place[value] for value in values]
