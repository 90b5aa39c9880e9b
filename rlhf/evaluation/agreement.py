"""How far judges agree: accuracy, Cohen's kappa for two, Fleiss' kappa for many."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """Two judges on the pairs that both judged; None where it is not defined (no pair, or nothing but one answer).

    accuracy: share of equal outcomes; decided: the same among pairs that neither called a tie
    kappa: agreement beyond that of judges who answer at random with the same shares (Cohen 1960)
    """

    pairs: int
    accuracy: float | None
    decided: float | None
    kappa: float | None


def agreement(left: Sequence[str | None], right: Sequence[str | None]) -> Agreement:
    """Compare two judges' outcomes of the same pairs; None is no verdict."""
    both = [(a, b) for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    if not both:
        return Agreement(0, None, None, None)
    decided = [a == b for a, b in both if "tie" not in (a, b)]
    return Agreement(
        len(both),
        sum(a == b for a, b in both) / len(both),
        sum(decided) / len(decided) if decided else None,
        cohen_kappa([a for a, _ in both], [b for _, b in both]),
    )


def cohen_kappa(left: Sequence[str], right: Sequence[str]) -> float | None:
    """(observed - expected) / (1 - expected); None where both say one and the same throughout."""
    count = len(left)
    observed = sum(a == b for a, b in zip(left, right, strict=True)) / count
    shares, others = Counter(left), Counter(right)
    expected = sum(shares[answer] * others[answer] for answer in shares) / count**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def fleiss_kappa(votes: Sequence[Sequence[str]]) -> float | None:
    """Agreement of any two raters beyond chance, `votes[i]` being those on item i (Fleiss 1971).

    Items may have different numbers of votes; those with fewer than two tell nothing and are left out. None where it is
    not defined.
    """
    items = [list(item) for item in votes if len(item) > 1]
    answers = sorted({answer for item in items for answer in item})
    if not items or len(answers) < 2:
        return None
    counts: NDArray[np.float64] = np.array(
        [[item.count(answer) for answer in answers] for item in items], np.float64
    )
    totals = counts.sum(1)
    observed = float(np.mean(((counts * counts).sum(1) - totals) / (totals * (totals - 1))))
    expected = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return (observed - expected) / (1 - expected)
