"""What can be counted in comparisons without a judge: whether length alone wins, and histograms."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlhf.evaluation.types import Outcome


def longer_win_rate(
    outcomes: Sequence[Outcome], lengths_challenger: Sequence[int], lengths_baseline: Sequence[int]
) -> float | None:
    """Share of decided comparisons of unequal lengths (tokens) in which the longer response wins; None without any.

    Far above 1/2: the judge may reward length.
    """
    decided = [
        (outcome == "win") == (challenger > baseline)
        for outcome, challenger, baseline in zip(
            outcomes, lengths_challenger, lengths_baseline, strict=True
        )
        if outcome != "tie" and challenger != baseline
    ]
    return sum(decided) / len(decided) if decided else None


def edges_over(values: Sequence[float], bins: int = 24) -> NDArray[np.float64]:
    """Bin edges [bins + 1] from the smallest to the largest value; a unit wide bin range around a single value."""
    low, high = float(np.min(values)), float(np.max(values))
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def histogram(values: Sequence[float], edges: NDArray[np.float64]) -> list[int]:
    """Counts per bin, [len(edges) - 1]."""
    return [
        int(count) for count in np.histogram(np.asarray(values, dtype=np.float64), bins=edges)[0]
    ]
