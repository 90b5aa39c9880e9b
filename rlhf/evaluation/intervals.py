"""95 % intervals: by bootstrap over prompts, and Wilson's for a share."""

import math

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
# the normal distribution's quantile of 97.5 %
Z_95 = 1.959964
# drawn at once: keeps the memory that many prompts take at 32 MB
DRAWS_AT_ONCE = 4_000_000


def bootstrap_interval(
    values: NDArray[np.float64], seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` [N], N >= 1, with values in [0, 1].

    From `resamples` samples of N with replacement. The draws depend on seed and N alone, so that
    mirrored values (1 - v) give the mirrored interval. Values that are all alike would give an
    interval without width at any N; they get Wilson's. Raises ValueError without values.
    """
    count = len(values)
    if count == 0:
        raise ValueError("no values to resample")
    # every resample would have the same mean
    if values.min() == values.max():
        return wilson_interval(float(values[0]), count)

    # in parts, for memory; the numbers drawn are the same however many parts there are
    random = np.random.default_rng(seed)
    rows = max(1, DRAWS_AT_ONCE // count)
    means = np.empty(resamples)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = random.integers(0, count, size=(size, count))
        means[start : start + size] = values[drawn].mean(axis=1)

    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % score interval of a share in [0, 1] of `count` trials (Wilson 1927)."""
    square = Z_95**2 / count
    centre = share + square / 2
    half_width = Z_95 * math.sqrt((share * (1 - share) + square / 4) / count)

    # rounding may lead beyond 0 and 1
    low = max(0.0, (centre - half_width) / (1 + square))
    high = min(1.0, (centre + half_width) / (1 + square))
    return low, high
