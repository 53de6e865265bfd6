"""Spreads over seeds, and how sure a difference between two methods is.

Two methods stand side by side on the same seeds and the same test images, so first of all their differences are taken
pairwise. A seed draws the calibration images and everything random in a run; the test images are a draw of all images
there could be. What is claimed of a method has to hold for other seeds and for other images: two crossed effects.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """The mean of a value over seeds, and its standard deviation (n - 1), which one value does not have."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class Difference:
    """A mean difference, with its 95 % interval; one pair of numbers has none.

    num_seeds: the pairs of seeds; one seed's interval knows the chance of the images alone.
    """

    mean: float
    low: float | None
    high: float | None
    num_seeds: int

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and (self.low > 0 or self.high < 0)


def spread(values: list[float]) -> Spread:
    """Mean and standard deviation of one value a seed; an infinite one, such as the SQNR of no noise, leaves no spread.

    >>> spread([1.0, 2.0, 3.0]), spread([5.0])
    (Spread(mean=2.0, std=1.0), Spread(mean=5.0, std=None))
    """
    return Spread(mean(values), stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None)


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Difference | None:
    """Student's t interval of a - b over the seeds that both have, from a number a seed; None without such a seed."""
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    differences = np.array([a[seed] - b[seed] if a[seed] != b[seed] else 0.0 for seed in seeds])
    if len(seeds) == 1 or not np.isfinite(differences).all():
        return Difference(float(differences.mean()), None, None, len(seeds))
    return _interval(differences.mean(), differences.var(ddof=1) / len(seeds), len(seeds) - 1, len(seeds))


def paired_top1(
    a: Mapping[int, np.ndarray], b: Mapping[int, np.ndarray], same_images: bool = True
) -> Difference | None:
    """Top-1 of a minus top-1 of b in points, over the seeds that both have; of bool vectors [N]: is an image right.

    None without a common seed, or where the numbers of images differ. The interval is that of `crossed`; it leans on
    the central limit theorem, so where the two differ on less than about ten images it is optimistic. same_images: see
    there.
    """
    seeds = sorted(a.keys() & b.keys())
    if not seeds or len({len(vectors[seed]) for vectors in (a, b) for seed in seeds}) > 1:
        return None
    differences = np.stack([a[seed].astype(np.int64) - b[seed].astype(np.int64) for seed in seeds])
    return crossed(100 * differences, same_images)


def are_same(vectors: Sequence[np.ndarray]) -> bool:
    """Whether images are the same ones in the same order for all seeds, by which of them the float model has right.

    One in 1,000 may differ, as where two processors round differently.
    """
    return all(len(one) == len(vectors[0]) and 1000 * (one != vectors[0]).sum() <= len(one) for one in vectors[1:])


def crossed(differences: np.ndarray, same_images: bool = True) -> Difference:
    """The mean of differences [S, N] of S seeds on N images, with an interval for other seeds and other images.

    d_si = mean + image_i + seed_s + rest_si, all random. The variance of the mean is estimated by

        v_images + v_seeds,   v_images = var_i(mean_s d_si) / N,   v_seeds = var_s(mean_i d_si) / S,

    each with n - 1. Both hold the variance of the rest, over S N: it counts twice, which errs to the safe side. Two or
    three seeds that lie close together by chance err to the other side: where seeds and images vary the mean alike, 7.1
    and 6.0 % of the intervals miss it, and at the worst, seeds five times and twice as much, 12.7 and 7.7 %.

    same_images: whether column i is one image for all seeds. Where each seed draws images of its own, which overlap to
    an unknown part, v_images is that of a single seed, as if all of them had the same ones: the safe side.

    Student's t with degrees of freedom (v_images + v_seeds)^2 / (v_images^2 / (N - 1) + v_seeds^2 / (S - 1)).
    One seed: v_images alone, so nothing is said of other seeds.

    Source: the variance over two crossed effects, Owen, "The pigeonhole bootstrap", Ann. Appl. Stat. 1 (2007)
    386-411; degrees of freedom, Satterthwaite, Biometrics Bull. 2 (1946) 110-114, Welch, Biometrika 34 (1947) 28-35.
    """
    num_seeds, num_images = differences.shape
    by_image = differences.mean(0, keepdims=True) if same_images else differences
    parts = [(by_image.var(1, ddof=1).mean() / num_images, num_images - 1)] if num_images > 1 else []
    if num_seeds > 1:
        parts.append((differences.mean(1).var(ddof=1) / num_seeds, num_seeds - 1))
    if not parts:
        return Difference(float(differences.mean()), None, None, num_seeds)
    variance = sum(part for part, _ in parts)
    uncertainty = sum(part**2 / df for part, df in parts)
    return _interval(differences.mean(), variance, variance**2 / uncertainty if uncertainty else 1, num_seeds)


def _interval(middle: float, variance: float, df: float, num_seeds: int) -> Difference:
    from scipy.special import stdtrit

    half = stdtrit(df, (1 + CONFIDENCE) / 2) * math.sqrt(variance)
    return Difference(float(middle), float(middle - half), float(middle + half), num_seeds)
