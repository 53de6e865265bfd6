"""How far a measured accuracy may be from the true one."""

import math

Z = 1.959964  # of a standard normal, 95 % two-sided


def wilson(percent: float, num_images: int) -> tuple[float, float]:
    """The 95 % interval, in percent, of an accuracy measured on so many images drawn independently.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212.

    >>> [round(bound, 2) for bound in wilson(94.04, 10_000)]
    [93.56, 94.49]
    """
    p, n = percent / 100, num_images
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)  # rounding may leave them by 1e-17
