"""How far judges agree: accuracy, Cohen's kappa for two, Fleiss' kappa for many."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """Two judges on the pairs that both judged.

    accuracy: share of equal outcomes
    decided: the same among pairs that neither called a tie
    kappa: agreement beyond that of judges who answer at random with the same shares (Cohen 1960)

    None where a figure is not defined: no such pair, or one and the same answer throughout.
    """

    pairs: int
    accuracy: float | None
    decided: float | None
    kappa: float | None


def agreement(left: Sequence[str | None], right: Sequence[str | None]) -> Agreement:
    """Compare two judges' outcomes of the same pairs; None is no verdict."""
    judged_by_both = [
        (one, other)
        for one, other in zip(left, right, strict=True)
        if one is not None and other is not None
    ]
    # who calls few ties agrees on few: hence once without them
    decided = [pair for pair in judged_by_both if "tie" not in pair]
    kappa = None
    if judged_by_both:
        kappa = cohen_kappa(
            [one for one, _ in judged_by_both],
            [other for _, other in judged_by_both],
        )
    return Agreement(
        pairs=len(judged_by_both),
        accuracy=_share_of_equals(judged_by_both),
        decided=_share_of_equals(decided),
        kappa=kappa,
    )


def cohen_kappa(left: Sequence[str], right: Sequence[str]) -> float | None:
    """(observed - expected) / (1 - expected) of two raters' answers to the same items.

    None where both give one and the same answer throughout.
    """
    count = len(left)
    equal = sum(one == other for one, other in zip(left, right, strict=True))
    observed = equal / count

    # of raters who draw their answers at random, with the same shares
    counts_left, counts_right = Counter(left), Counter(right)
    by_chance = sum(counts_left[answer] * counts_right[answer] for answer in counts_left)
    expected = by_chance / count**2

    if expected == 1:
        return None
    return (observed - expected) / (1 - expected)


def fleiss_kappa(votes: Sequence[Sequence[str]]) -> float | None:
    """Agreement of any two raters beyond chance; `votes[i]` are those on item i (Fleiss 1971).

    Items may have different numbers of votes; those with fewer than two say nothing of agreement
    and are left out. None where it is not defined.
    """
    items = [list(item) for item in votes if len(item) > 1]
    answers = sorted(set().union(*items))
    if len(answers) < 2:
        return None

    # votes for each answer, [items, answers]
    counts: NDArray[np.float64] = np.zeros((len(items), len(answers)))
    for row, item in zip(counts, items, strict=True):
        row[:] = [item.count(answer) for answer in answers]

    # observed: of all pairs of raters of an item, those that agree
    raters = counts.sum(1)
    agreeing = (counts * counts).sum(1) - raters
    observed = float(np.mean(agreeing / (raters * (raters - 1))))

    # the same, of raters who draw their answers at random
    shares = counts.sum(0) / counts.sum()
    expected = float((shares**2).sum())
    return (observed - expected) / (1 - expected)


def _share_of_equals(pairs: Sequence[tuple[str, str]]) -> float | None:
    if not pairs:
        return None
    equal = sum(one == other for one, other in pairs)
    return equal / len(pairs)
