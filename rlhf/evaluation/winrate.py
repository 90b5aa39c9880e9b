"""Win, tie and lose shares, the win rate and its 95 % interval by bootstrap over prompts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf.core.seeds import derive_seed
from rlhf.evaluation.types import Outcome

RESAMPLES = 10_000
_CELLS = 4_000_000  # drawn at once: keeps the memory of many prompts at 32 MB
_95 = 1.959964  # normal quantile of 97.5 %
_REACH = _95 + 0.841621  # and of 80 %
_POINTS: dict[Outcome, float] = {"win": 1.0, "tie": 0.5, "lose": 0.0}


@dataclass(frozen=True)
class WinRate:
    """Shares in [0, 1] over `count` prompts; win_rate = win + tie / 2, low and high bound its 95 % interval."""

    win: float
    tie: float
    lose: float
    win_rate: float
    win_rate_low: float
    win_rate_high: float
    count: int


def points(outcomes: Iterable[Outcome]) -> NDArray[np.float64]:
    """Outcomes as points, [N]: win 1, tie 1/2, lose 0; their mean is the win rate."""
    return np.array([_POINTS[outcome] for outcome in outcomes], dtype=np.float64)


def bootstrap_interval(
    values: NDArray[np.float64], seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` [N], N >= 1, from `resamples` samples of N with replacement.

    The draws depend on seed and N alone, so that mirrored values (1 - v) give the mirrored interval. Values in [0, 1] that
    are all alike would give an interval without width at any N; theirs is Wilson's (1927).
    """
    count = len(values)
    if count == 0:
        raise ValueError("no values to resample")
    if values.min() == values.max():
        return wilson_interval(float(values[0]), count)
    random = np.random.default_rng(seed)
    rows = max(1, _CELLS // count)
    means = np.concatenate(
        [
            values[random.integers(0, count, size=(min(rows, resamples - start), count))].mean(
                axis=1
            )
            for start in range(0, resamples, rows)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share in [0, 1] of `count` trials."""
    square = _95**2 / count
    centre = share + square / 2
    reach = _95 * math.sqrt((share * (1 - share) + square / 4) / count)
    return max(0.0, (centre - reach) / (1 + square)), min(
        1.0, (centre + reach) / (1 + square)
    )  # rounding leads beyond


def win_rate(outcomes: Sequence[Outcome], seed: int, *names: str | int) -> WinRate:
    """Summarise at least one outcome; the bootstrap is seeded by `names` under the run's root seed."""
    values = points(outcomes)
    low, high = bootstrap_interval(values, derive_seed(seed, "bootstrap", *names))
    count = len(outcomes)
    return WinRate(
        win=outcomes.count("win") / count,
        tie=outcomes.count("tie") / count,
        lose=outcomes.count("lose") / count,
        win_rate=float(values.mean()),
        win_rate_low=low,
        win_rate_high=high,
        count=count,
    )


def win_rates_by_kind(
    outcomes: Sequence[Outcome], kinds: Sequence[str], seed: int
) -> dict[str, WinRate]:
    """Summaries under "all" and under each kind that occurs, kinds in alphabetical order."""
    summaries = {"all": win_rate(outcomes, seed, "all")}
    for kind in sorted(set(kinds)):
        chosen = [
            outcome for outcome, its_kind in zip(outcomes, kinds, strict=True) if its_kind == kind
        ]
        summaries[kind] = win_rate(chosen, seed, kind)
    return summaries


def detectable_difference(values: NDArray[np.float64]) -> float | None:
    """How far from 1/2 a win rate must lie for these many prompts to show it, with the spread of these points, [N].

    At 5 % two-sided and a power of 80 %: (1.96 + 0.84) std / sqrt(N). None where points without spread tell nothing.
    """
    return float(_REACH * values.std() / math.sqrt(len(values))) if values.std() > 0 else None


def prompts_needed(values: NDArray[np.float64], difference: float) -> int | None:
    """How many prompts with the spread of these points show that a win rate is `difference` from 1/2; None as above."""
    return math.ceil((_REACH * float(values.std()) / difference) ** 2) if values.std() > 0 else None
