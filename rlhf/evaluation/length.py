"""The win rate with length held equal: what is left of it when neither response is the longer one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf.common.seeds import derive_seed

RESAMPLES = 2_000
_RIDGE = 0.01  # pseudo-observations against separable samples: it moves the estimate by less than 1/N
_STEPS = 30

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Controlled:
    """The win rate at equal length with its 95 % bootstrap interval."""

    win_rate: float
    low: float
    high: float


def length_controlled(
    points: Array, lengths_challenger: Sequence[int], lengths_baseline: Sequence[int], seed: int
) -> Controlled:
    """Fit P(win) = sigmoid(a + b tanh(d / std d)) by logistic regression, d the difference of lengths; give it at d = 0.

    `points` are 1, 1/2 or 0, [N], N >= 1. The form is that of length-controlled AlpacaEval (Dubois et al. 2024), without its
    terms for instructions. Where all lengths are equal it is the mean of the points, shrunk a little.
    """
    difference = np.asarray(lengths_challenger, np.float64) - np.asarray(lengths_baseline, np.float64)
    spread = float(difference.std()) or 1.0
    features = np.stack([np.ones_like(difference), np.tanh(difference / spread)], axis=1)
    count = len(points)
    random = np.random.default_rng(derive_seed(seed, "length-controlled"))
    weights = np.concatenate(
        [np.ones((1, count)), random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)]
    )
    at_zero = 1 / (1 + np.exp(-logistic(features, points, weights)[:, 0]))
    low, high = np.percentile(at_zero[1:], [2.5, 97.5])
    return Controlled(float(at_zero[0]), float(low), float(high))


def logistic(features: Array, points: Array, weights: Array) -> Array:
    """Coefficients [S, F] of S weighted logistic regressions by Newton's method; features [N, F], points [N], weights [S, N]."""
    samples, width = weights.shape[0], features.shape[1]
    found = np.zeros((samples, width))
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(found @ features.T, -30, 30)))
        gradient = (weights * (points - chance)) @ features - _RIDGE * found
        curvature = np.einsum("sn,nf,ng->sfg", weights * chance * (1 - chance), features, features)
        step = np.linalg.solve(curvature + _RIDGE * np.eye(width), gradient[:, :, None])[:, :, 0]
        found += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return found
