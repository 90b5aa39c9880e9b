"""Win, tie and lose shares, the win rate with its interval, and what so many prompts can show."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf.core.seeds import derive_seed
from rlhf.evaluation.intervals import Z_95, bootstrap_interval
from rlhf.evaluation.types import Outcome

# the normal distribution's quantile of 80 %: the power of the test
_Z_POWER = 0.841621
_STANDARD_ERRORS = Z_95 + _Z_POWER
_POINTS: dict[Outcome, float] = {"win": 1.0, "tie": 0.5, "lose": 0.0}


@dataclass(frozen=True)
class WinRate:
    """Shares in [0, 1] over `count` prompts, with win_rate = win + tie / 2.

    win_rate_low, win_rate_high: the ends of its 95 % interval
    """

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


def win_rate(outcomes: Sequence[Outcome], seed: int, *names: str | int) -> WinRate:
    """Summarise at least one outcome.

    The bootstrap is seeded by `names` under the run's root seed.
    """
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
    by_kind: dict[str, list[Outcome]] = {}
    for outcome, kind in zip(outcomes, kinds, strict=True):
        by_kind.setdefault(kind, []).append(outcome)

    summaries = {"all": win_rate(outcomes, seed, "all")}
    for kind in sorted(by_kind):
        summaries[kind] = win_rate(by_kind[kind], seed, kind)
    return summaries


# -- what so many prompts can show --


def detectable_difference(values: NDArray[np.float64]) -> float | None:
    """How far from 1/2 a win rate must lie for these points, [N], to show it.

    At 5 % two-sided and a power of 80 %: (1.96 + 0.84) std / sqrt(N). None where the points do not
    vary: then they say nothing of it.
    """
    std = values.std()
    if std == 0:
        return None
    return float(_STANDARD_ERRORS * std / math.sqrt(len(values)))


def prompts_needed(values: NDArray[np.float64], difference: float) -> int | None:
    """How many prompts show a win rate that is `difference` from 1/2, if points vary as these do.

    None where the points do not vary.
    """
    std = float(values.std())
    if std == 0:
        return None
    return math.ceil((_STANDARD_ERRORS * std / difference) ** 2)
