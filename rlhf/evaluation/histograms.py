"""Histograms over common edges, as the details of the evaluation have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    values = [value for group in groups.values() for value in group]
    if not values:
        return Histograms([], {})
    edges = histogram_edges(values)
    counts = {name: histogram_counts(group, edges) for name, group in sorted(groups.items())}
    return Histograms(edges.tolist(), counts)


def histogram_edges(values: Sequence[float], bins: int = _BINS) -> NDArray[np.float64]:
    """Bin edges [bins + 1] from the smallest to the largest value; a single value gets a width of 1."""
    low, high = float(np.min(values)), float(np.max(values))
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def histogram_counts(values: Sequence[float], edges: NDArray[np.float64]) -> list[int]:
    """Counts per bin, [len(edges) - 1]."""
    counts, _ = np.histogram(np.asarray(values, dtype=np.float64), bins=edges)
    return [int(count) for count in counts]
