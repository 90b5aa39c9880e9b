"""The last answer of a dialogue, apart from what precedes it."""

from collections.abc import Sequence

import numpy as np


def last_answer(input_ids: Sequence[int], loss_mask: Sequence[bool]) -> tuple[list[int], list[int]]:
    """The tokens before a dialogue's last answer, and those of the answer.

    loss_mask: True on the tokens of answers; what it leaves behind the last one belongs to neither.
    Raises ValueError where there is no answer, or nothing before it.
    """
    is_answer = np.asarray(loss_mask, dtype=bool)
    inside = np.flatnonzero(is_answer)
    if not len(inside):
        raise ValueError("no token of it is an answer")
    end = int(inside[-1]) + 1
    outside = np.flatnonzero(~is_answer[:end])
    if not len(outside):
        raise ValueError("there is nothing before its answer")
    start = int(outside[-1]) + 1
    ids = [int(token) for token in input_ids]
    return ids[:start], ids[start:end]
