"""What the paper found, as statements about arms that seeds can confirm or contradict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t as student

Direction = Literal["higher", "lower", "same"]
Verdict = Literal["agrees", "differs", "inside the noise"]
START = "start"  # in place of an arm: where the same run began


@dataclass(frozen=True)
class Claim:
    """`metric` of `arm` is higher or lower than, or the same as, that of `against` (an arm, or where the run began)."""

    text: str
    metric: str
    arm: str
    against: str
    direction: Direction


@dataclass(frozen=True)
class Finding:
    """A claim with what was measured: mean over seeds of the paired differences, its 95 % interval, and the verdict."""

    claim: Claim
    difference: float
    low: float
    high: float
    seeds: int
    verdict: Verdict


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % Student interval of paired differences; an infinite one for a single seed."""
    count = len(differences)
    mean = sum(differences) / count
    if count < 2:
        return mean, -math.inf, math.inf
    variance = sum((value - mean) ** 2 for value in differences) / (count - 1)
    half = float(student.ppf(0.975, count - 1)) * math.sqrt(variance / count)
    return mean, mean - half, mean + half


def judge(claim: Claim, measured: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Finding | None:
    """Hold a claim to the runs, `measured[arm][seed][metric]`; None where a side has no run with the metric.

    Where a run began is its `_first` in place of `_last`. Seeds are paired: both sides saw the same prompts in the same order.
    A difference whose interval holds 0 is inside the noise, or agrees where the paper saw none.
    """
    own = measured.get(claim.arm, {})
    other = own if claim.against == START else measured.get(claim.against, {})
    began = claim.metric.removesuffix("_last") + "_first"
    reference = began if claim.against == START else claim.metric
    pairs = [
        (own[seed][claim.metric], other[seed][reference])
        for seed in sorted(own.keys() & other.keys())
        if claim.metric in own[seed] and reference in other[seed]
    ]
    if not pairs:
        return None
    mean, low, high = interval([left - right for left, right in pairs])
    return Finding(claim, mean, low, high, len(pairs), _verdict(claim.direction, low, high))


def _verdict(direction: Direction, low: float, high: float) -> Verdict:
    if low <= 0 <= high:
        return "agrees" if direction == "same" else "inside the noise"
    if direction == "same":
        return "differs"
    return "agrees" if (low > 0) == (direction == "higher") else "differs"
