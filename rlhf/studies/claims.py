"""What the paper found, as statements about arms that seeds can confirm or contradict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t as student

Direction = Literal["higher", "lower", "same"]
Verdict = Literal["agrees", "differs", "inside the noise"]
START = "start"  # in place of an arm: where the same run began
LITTLE = 0.25  # our choice: "the same" is an interval within this share of how far the other side came from its start


@dataclass(frozen=True)
class Claim:
    """`metric` of `arm` is higher or lower than, or the same as, that of `against` (an arm, or where the run began)."""

    text: str
    metric: str
    arm: str
    against: str
    direction: Direction

    def __post_init__(self) -> None:
        if self.against == START and self.direction == "same":
            raise ValueError(
                f"{self.text}: 'same' is measured by how far the other side came; a start came nowhere"
            )
        if (self.against == START or self.direction == "same") and not self.metric.endswith(
            "_last"
        ):
            raise ValueError(
                f"{self.text}: {self.metric} has no start to compare with; that takes a metric *_last"
            )

    @property
    def first(self) -> str:
        """The metric where the run began."""
        return self.metric.removesuffix("_last") + "_first"


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


def judge(
    claim: Claim, measured: Mapping[str, Mapping[int, Mapping[str, float]]]
) -> Finding | None:
    """Hold a claim to the runs, `measured[arm][seed][metric]`; None where a side has no run with the metric.

    Where a run began is its `_first` in place of `_last`. Seeds are paired: both sides saw the same prompts in the same order.
    A difference whose interval holds 0 is inside the noise; it does not show that there is no effect. That is shown by an
    interval within LITTLE of the change that training made to the other side (a test of equivalence); its contrary by one
    that lies beyond it. The margin is an estimate from these seeds too, and taken as known.
    """
    own = measured.get(claim.arm, {})
    other = own if claim.against == START else measured.get(claim.against, {})
    reference = claim.first if claim.against == START else claim.metric
    needed = {reference, claim.first} if claim.direction == "same" else {reference}
    seeds = [
        seed
        for seed in sorted(own.keys() & other.keys())
        if claim.metric in own[seed] and needed <= other[seed].keys()
    ]
    if not seeds:
        return None
    mean, low, high = interval([own[seed][claim.metric] - other[seed][reference] for seed in seeds])
    little = 0.0
    if claim.direction == "same":
        little = (
            LITTLE
            * sum(abs(other[seed][claim.metric] - other[seed][claim.first]) for seed in seeds)
            / len(seeds)
        )
    return Finding(claim, mean, low, high, len(seeds), _verdict(claim.direction, low, high, little))


def _verdict(direction: Direction, low: float, high: float, little: float) -> Verdict:
    if direction == "same":
        if -little <= low and high <= little:
            return "agrees"
        return "differs" if low > little or high < -little else "inside the noise"
    if low <= 0 <= high:
        return "inside the noise"
    return "agrees" if direction == ("higher" if low > 0 else "lower") else "differs"
