"""How much of what was said was said before."""

from collections.abc import Sequence
from itertools import pairwise


def distinct_2(responses: Sequence[Sequence[int]]) -> float | None:
    """Share of distinct bigrams of tokens over all responses, None without any; low: repetitive."""
    bigrams = [pair for ids in responses for pair in pairwise(ids)]
    return len(set(bigrams)) / len(bigrams) if bigrams else None
