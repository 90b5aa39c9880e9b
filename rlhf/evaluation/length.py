"""What length does to the win rate: does the longer response win, what is left at equal length?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf.core.seeds import derive_seed
from rlhf.evaluation.intervals import wilson_interval
from rlhf.evaluation.types import Outcome

RESAMPLES = 2_000
# share of the prompts that must have either response no longer than the other
OVERLAP = 0.05
# pseudo-observations against separable samples: it moves the estimate by less than 1/N
_RIDGE = 0.01
# of Newton's method; ordinary samples take less than 10
_STEPS = 60

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LengthControlledRate:
    """The win rate at equal length with its 95 % interval."""

    win_rate: float
    low: float
    high: float


def longer_win_rate(
    outcomes: Sequence[Outcome], lengths_challenger: Sequence[int], lengths_baseline: Sequence[int]
) -> float | None:
    """Share of decided comparisons of unequal lengths in which the longer response wins.

    Lengths are in tokens. Far above 1/2: the judge may reward length. None without any.
    """
    longer_won = []
    lengths = zip(lengths_challenger, lengths_baseline, strict=True)
    for outcome, (challenger, baseline) in zip(outcomes, lengths, strict=True):
        if outcome != "tie" and challenger != baseline:
            longer = "win" if challenger > baseline else "lose"
            longer_won.append(outcome == longer)
    return sum(longer_won) / len(longer_won) if longer_won else None


def length_controlled(
    points: Array, lengths_challenger: Sequence[int], lengths_baseline: Sequence[int], seed: int
) -> LengthControlledRate | None:
    """Fit P(win) = sigmoid(a + b tanh(d / std d)) by logistic regression and give it at d = 0.

    `points` are 1, 1/2 or 0, [N], N >= 1; d is the difference of the lengths in tokens. The form is
    that of length-controlled AlpacaEval (Dubois et al. 2024), without its terms for instructions.
    The interval is by bootstrap over prompts, and Wilson's where all points are alike.

    None where d <= 0 or d >= 0 on fewer than one prompt in twenty: equal length is then not among
    what was seen.
    """
    # 1. do the lengths overlap?
    challenger = np.asarray(lengths_challenger, np.float64)
    baseline = np.asarray(lengths_baseline, np.float64)
    difference = challenger - baseline
    not_longer, not_shorter = (difference <= 0).mean(), (difference >= 0).mean()
    if min(not_longer, not_shorter) < OVERLAP:
        return None

    # 2. points without variation fit any curve
    count = len(points)
    if points.min() == points.max():
        share = float(points[0])
        return LengthControlledRate(share, *wilson_interval(share, count))

    # 3. the sample itself and its resamples, as weights of the prompts
    random = np.random.default_rng(derive_seed(seed, "length-controlled"))
    resampled = random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    weights = np.concatenate([np.ones((1, count)), resampled.astype(np.float64)])

    # 4. the fitted win rate at equal length, of each
    scale = float(difference.std()) or 1.0
    features = np.stack([np.ones_like(difference), np.tanh(difference / scale)], axis=1)
    rates = weights @ points / count
    # a sample of wins or losses alone has no finite intercept: its rate is 1 or 0
    mixed = (rates > 0) & (rates < 1)
    intercepts = fit_logistic(features, points, weights[mixed])[:, 0]
    rates[mixed] = 1 / (1 + np.exp(-intercepts))

    low, high = np.percentile(rates[1:], [2.5, 97.5])
    return LengthControlledRate(float(rates[0]), float(low), float(high))


def fit_logistic(features: Array, points: Array, weights: Array) -> Array:
    """Coefficients [S, F] of S weighted logistic regressions by Newton's method.

    features [N, F], points [N], weights [S, N]. The first feature is the intercept: no ridge pulls
    at it, so that no sample's points may all be 1 or all 0.
    """
    samples, width = len(weights), features.shape[1]
    ridge = np.full(width, _RIDGE)
    ridge[0] = 0.0
    coefficients = np.zeros((samples, width))
    step = np.zeros((samples, width))
    # of the likelihood, along the last step
    slope = np.zeros(samples)
    for _ in range(_STEPS):
        # clipped: exp must not overflow
        logits = np.clip(coefficients @ features.T, -30, 30)
        chance = 1 / (1 + np.exp(-logits))
        gradient = (weights * (points - chance)) @ features - ridge * coefficients
        variance = weights * chance * (1 - chance)
        curvature = np.einsum("sn,nf,ng->sfg", variance, features, features) + np.diag(ridge)

        # In separable samples Newton's step may lead far beyond the top, where the slope along it
        # has turned: then half of it back.
        beyond = np.einsum("sf,sf->s", gradient, step) < -slope / 2
        newton = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        step = np.where(beyond[:, None], -step / 2, np.clip(newton, -2, 2))
        slope = np.einsum("sf,sf->s", gradient, step)
        coefficients += step

        # all samples are at their top
        if np.abs(step).max() < 1e-8:
            break
    return coefficients
