"""Histograms over common edges, as the details of the evaluation have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

_BINS = 24


@dataclass(frozen=True)
class Histograms:
    """Counts of several groups over common bin edges [bins + 1]; both empty without values."""

    edges: list[float]
    counts: dict[str, list[int]]


def shared_histograms(groups: Mapping[str, Sequence[float]]) -> Histograms:
    """Histograms of all groups, from the smallest to the largest value among them."""
    values = list(chain.from_iterable(groups.values()))
    if not values:
        return Histograms([], {})

    edges = histogram_edges(values)
    counts = {}
    for name, group in sorted(groups.items()):
        counts[name] = histogram_counts(group, edges)
    return Histograms(edges.tolist(), counts)


def histogram_edges(values: Sequence[float], bins: int = _BINS) -> NDArray[np.float64]:
    """Bin edges [bins + 1] from the smallest to the largest value."""
    low = float(np.min(values))
    high = float(np.max(values))
    # around a single value: a range of width 1
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def histogram_counts(values: Sequence[float], edges: NDArray[np.float64]) -> list[int]:
    """Counts per bin, [len(edges) - 1]."""
    numbers = np.asarray(values, dtype=np.float64)
    counts, _ = np.histogram(numbers, bins=edges)
    return [int(count) for count in counts]
