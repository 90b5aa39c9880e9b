"""Signals that training is sound (section 5.2): reward and loss do not tell, perplexity, length and KL do."""

import math
from collections.abc import Sequence
from typing import Any

from rlhf.common.steps import ends

# A policy counts as collapsed when at least two of the three signals have left the band around where it started.
PERPLEXITY_SHARE = 0.5  # of the first log-perplexity: collapse drives perplexity towards 1
LENGTH_FACTOR = 1.5  # of the first response length
FINISHED_SHARE = 0.5  # of the first share of responses that end by themselves: the others ran into the limit
KL_BAND = 0.5  # nats per token
SIGNALS = ("perplexity", "response_length", "finished", "kl")


def collapsed(rows: Sequence[dict[str, Any]]) -> bool | None:
    """Judge a finished run by the means over its first and last tenth of iterations (at least one each).

    None for an algorithm that does not log the signals.
    """
    if not all(key in row for key in SIGNALS for row in rows):
        return None
    first, last = ends(rows, "perplexity")
    first_length, last_length = ends(rows, "response_length")
    first_finished, last_finished = ends(rows, "finished")
    _, kl = ends(rows, "kl")
    signals = [
        math.log(last) < PERPLEXITY_SHARE * math.log(first),
        last_length > LENGTH_FACTOR * first_length or last_finished < FINISHED_SHARE * first_finished,
        kl > KL_BAND,
    ]
    return sum(signals) >= 2
