"""What the paper found, as statements about arms that seeds can confirm or contradict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t as student

Direction = Literal["higher", "lower", "same"]
Verdict = Literal["agrees", "differs", "inside the noise"]
# the summaries of an arm's runs: seed -> metric -> value
Runs = Mapping[int, Mapping[str, float]]

# in place of an arm: where the same run began
START = "start"
# our choice: "the same" is an interval within this share of the change that training made to the
# other side
EQUIVALENCE_MARGIN = 0.25


@dataclass(frozen=True)
class Claim:
    """`metric` of `arm` is higher or lower than, or the same as, that of `against`.

    against: an arm, or START
    baseline: the metric of the other side, where that is another one
    """

    text: str
    metric: str
    arm: str
    against: str
    direction: Direction
    baseline: str | None = None

    def __post_init__(self) -> None:
        if self.direction == "same" and self.against == START:
            raise ValueError(
                f"{self.text}: 'same' is measured by how far the other side came; "
                "a start came nowhere"
            )
        if self.baseline is not None and (self.direction == "same" or self.against == START):
            raise ValueError(f"{self.text}: a baseline is of an arm, and higher or lower")
        needs_start = self.direction == "same" or self.against == START
        if needs_start and not self.metric.endswith("_last"):
            raise ValueError(
                f"{self.text}: {self.metric} has no start to compare with; "
                "that takes a metric *_last"
            )

    @property
    def metric_at_start(self) -> str:
        """The metric where the run began."""
        return self.metric.removesuffix("_last") + "_first"


@dataclass(frozen=True)
class Finding:
    """A claim with what was measured.

    difference: mean over seeds of the paired differences; low, high: its 95 % interval
    """

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
    half_width = float(student.ppf(0.975, count - 1)) * math.sqrt(variance / count)
    return mean, mean - half_width, mean + half_width


def judge(claim: Claim, measured: Mapping[str, Runs]) -> Finding | None:
    """Hold a claim to the runs, `measured[arm][seed][metric]`.

    None where the two sides have no seed with the metric in common. Seeds are paired: both sides saw
    the same prompts in the same order. A difference whose interval holds 0 is inside the noise; it
    does not show that there is no effect. That is shown by an interval within EQUIVALENCE_MARGIN of
    the change that training made to the other side (a test of equivalence); its contrary by one that
    lies beyond it. The margin is an estimate from these seeds too, and taken as known.
    """
    runs = measured.get(claim.arm, {})
    if claim.against == START:
        others, reference = runs, claim.metric_at_start
    else:
        others, reference = measured.get(claim.against, {}), claim.baseline or claim.metric
    needed = {reference}
    if claim.direction == "same":
        needed.add(claim.metric_at_start)

    pairs = []
    for seed in sorted(runs.keys() & others.keys()):
        if claim.metric in runs[seed] and needed <= others[seed].keys():
            pairs.append((runs[seed], others[seed]))
    if not pairs:
        return None

    mean, low, high = interval([run[claim.metric] - other[reference] for run, other in pairs])
    if claim.direction == "same":
        changes = [abs(other[claim.metric] - other[claim.metric_at_start]) for _, other in pairs]
        verdict = _equivalence(low, high, EQUIVALENCE_MARGIN * sum(changes) / len(changes))
    else:
        verdict = _difference(claim.direction, low, high)
    return Finding(claim, mean, low, high, len(pairs), verdict)


def _difference(direction: Direction, low: float, high: float) -> Verdict:
    if low <= 0 <= high:
        return "inside the noise"
    measured = "higher" if low > 0 else "lower"
    return "agrees" if direction == measured else "differs"


def _equivalence(low: float, high: float, margin: float) -> Verdict:
    if -margin <= low and high <= margin:
        return "agrees"
    if low > margin or high < -margin:
        return "differs"
    return "inside the noise"
