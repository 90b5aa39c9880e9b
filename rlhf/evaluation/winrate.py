"""Win, tie and lose shares, the win rate and its 95 % interval by bootstrap over prompts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf.common.seeds import derive_seed
from rlhf.evaluation.judges import Outcome

RESAMPLES = 10_000
_CELLS = 4_000_000  # drawn at once: keeps the memory of many prompts at 32 MB
_REACH = 1.959964 + 0.841621  # normal quantiles of 97.5 % and 80 %
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


def bootstrap_interval(values: NDArray[np.float64], seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` [N], N >= 1, from `resamples` samples of N with replacement.

    The draws depend on seed and N alone, so that mirrored values (1 - v) give the mirrored interval.
    """
    count = len(values)
    if count == 0:
        raise ValueError("no values to resample")
    random = np.random.default_rng(seed)
    rows = max(1, _CELLS // count)
    means = np.concatenate(
        [
            values[random.integers(0, count, size=(min(rows, resamples - start), count))].mean(axis=1)
            for start in range(0, resamples, rows)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


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


def win_rates_by_kind(outcomes: Sequence[Outcome], kinds: Sequence[str], seed: int) -> dict[str, WinRate]:
    """Summaries under "all" and under each kind that occurs, kinds in alphabetical order."""
    summaries = {"all": win_rate(outcomes, seed, "all")}
    for kind in sorted(set(kinds)):
        chosen = [outcome for outcome, its_kind in zip(outcomes, kinds, strict=True) if its_kind == kind]
        summaries[kind] = win_rate(chosen, seed, kind)
    return summaries


def detectable_difference(values: NDArray[np.float64]) -> float:
    """How far from 1/2 a win rate must lie for these many prompts to show it, with the spread of these points, [N].

    At 5 % two-sided and a power of 80 %: (1.96 + 0.84) std / sqrt(N).
    """
    return float(_REACH * values.std() / math.sqrt(len(values)))


def prompts_needed(values: NDArray[np.float64], difference: float) -> int:
    """How many prompts with the spread of these points show that a win rate is `difference` from 1/2."""
    return math.ceil((_REACH * float(values.std()) / difference) ** 2)
