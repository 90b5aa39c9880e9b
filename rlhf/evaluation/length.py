"""The win rate with length held equal: what is left of it when neither response is the longer one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf.core.seeds import derive_seed
from rlhf.evaluation.winrate import wilson_interval

RESAMPLES = 2_000
OVERLAP = 0.05  # share of the prompts that must have either response no longer than the other
_RIDGE = (
    0.01  # pseudo-observations against separable samples: it moves the estimate by less than 1/N
)
_STEPS = 60  # ordinary samples take less than 10

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Controlled:
    """The win rate at equal length with its 95 % interval."""

    win_rate: float
    low: float
    high: float


def length_controlled(
    points: Array, lengths_challenger: Sequence[int], lengths_baseline: Sequence[int], seed: int
) -> Controlled | None:
    """Fit P(win) = sigmoid(a + b tanh(d / std d)) by logistic regression, d the difference of lengths; give it at d = 0.

    `points` are 1, 1/2 or 0, [N], N >= 1. The form is that of length-controlled AlpacaEval (Dubois et al. 2024), without its
    terms for instructions; the interval is by bootstrap over prompts, and Wilson's where all points are alike. None, as it
    cannot be told, where d <= 0 or d >= 0 on fewer than one prompt in twenty: equal length is then not among what was seen.
    """
    difference = np.asarray(lengths_challenger, np.float64) - np.asarray(
        lengths_baseline, np.float64
    )
    if min((difference <= 0).mean(), (difference >= 0).mean()) < OVERLAP:
        return None
    count = len(points)
    if points.min() == points.max():
        return Controlled(float(points[0]), *wilson_interval(float(points[0]), count))
    spread = float(difference.std()) or 1.0
    features = np.stack([np.ones_like(difference), np.tanh(difference / spread)], axis=1)
    random = np.random.default_rng(derive_seed(seed, "length-controlled"))
    weights = np.concatenate(
        [
            np.ones((1, count)),
            random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64),
        ]
    )
    at_zero = weights @ points / count
    mixed = (at_zero > 0) & (
        at_zero < 1
    )  # of wins or losses alone there is no finite intercept: theirs is 1 or 0
    at_zero[mixed] = 1 / (1 + np.exp(-logistic(features, points, weights[mixed])[:, 0]))
    low, high = np.percentile(at_zero[1:], [2.5, 97.5])
    return Controlled(float(at_zero[0]), float(low), float(high))


def logistic(features: Array, points: Array, weights: Array) -> Array:
    """Coefficients [S, F] of S weighted logistic regressions by Newton's method; features [N, F], points [N], weights [S, N].

    The first feature is the intercept: no ridge pulls at it, so that no sample's points may all be 1 or all 0.
    """
    samples, width = weights.shape[0], features.shape[1]
    ridge = np.full(width, _RIDGE)
    ridge[0] = 0.0
    found, step, slope = np.zeros((samples, width)), np.zeros((samples, width)), np.zeros(samples)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(found @ features.T, -30, 30)))
        gradient = (weights * (points - chance)) @ features - ridge * found
        curvature = np.einsum(
            "sn,nf,ng->sfg", weights * chance * (1 - chance), features, features
        ) + np.diag(ridge)
        # separable samples: Newton's step may lead far beyond the top, where the slope along it has turned; half of it back
        beyond = np.einsum("sf,sf->s", gradient, step) < -slope / 2
        newton = np.clip(np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0], -2, 2)
        step = np.where(beyond[:, None], -step / 2, newton)
        slope = np.einsum("sf,sf->s", gradient, step)
        found += step
        if np.abs(step).max() < 1e-8:
            break
    return found
