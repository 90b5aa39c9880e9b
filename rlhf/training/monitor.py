"""Signals that training is sound (section 5.2): perplexity, length, KL; not reward or loss.

The rule of the alarm: a policy has collapsed when, for `patience` iterations in a row, at least two
of three signals lie outside of the band around where it started, the mean over the iterations in
which it had not learnt yet. A KL twice as far out as its band counts for two: so far from its
reference a policy is sound by no other signal.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# of the first log-perplexity of own responses: collapse drives perplexity towards 1
PERPLEXITY_SHARE = 0.5
# of the first response length, up or down
LENGTH_FACTOR = 1.5
# of the first share of responses that end by themselves: the others ran into the limit
FINISHED_SHARE = 0.5
# nats per token above the first
KL_RISE = 0.5
SIGNALS = ("perplexity", "response_length", "finished", "kl")
# points: one for each signal outside of its band, two for a KL that is far out
ENOUGH = 2

Signals = Mapping[str, Any]


def start_of(rows: Sequence[Signals]) -> dict[str, float]:
    """Mean signals of the iterations up to 0, whose responses are all of the first policy."""
    first = [row for row in rows if row["step"] <= 0] or rows[:1]
    return {key: sum(row[key] for row in first) / len(first) for key in SIGNALS}


def outside(row: Signals, start: Mapping[str, float]) -> tuple[str, ...]:
    """Which of perplexity, length and kl have left their bands."""
    # in logarithms: a share of the perplexity itself would mean little
    log_perplexity, first = math.log(row["perplexity"]), math.log(start["perplexity"])
    length = row["response_length"] / start["response_length"]
    length_is_out = not 1 / LENGTH_FACTOR <= length <= LENGTH_FACTOR
    few_end = row["finished"] < FINISHED_SHARE * start["finished"]
    is_out = {
        "perplexity": log_perplexity < PERPLEXITY_SHARE * first,
        "length": length_is_out or few_end,
        "kl": row["kl"] > start["kl"] + KL_RISE,
    }
    return tuple(name for name, out in is_out.items() if out)


def points(row: Signals, start: Mapping[str, float]) -> int:
    """How much speaks for a collapse: the signals outside, a KL beyond twice its band counted double."""
    far_out = row["kl"] > start["kl"] + 2 * KL_RISE
    return len(outside(row, start)) + int(far_out)


@dataclass
class Watch:
    """What one run's iterations have shown so far; the same on every process, in every checkpoint."""

    patience: int
    rows: list[dict[str, float]] = field(default_factory=list)

    def see(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take in an iteration's metrics; those of an algorithm without the signals are passed over."""
        if all(key in metrics for key in SIGNALS):
            signals = {key: float(metrics[key]) for key in SIGNALS}
            self.rows.append({"step": step, **signals})

    @property
    def sound(self) -> bool:
        """Whether too little speaks for a collapse in the last iteration."""
        return not self.rows or points(self.rows[-1], start_of(self.rows)) < ENOUGH

    @property
    def collapse(self) -> int | None:
        """The step at which the alarm went off first, or None."""
        if not self.rows:
            return None
        # from all rows, each time: a resumed run comes to the same verdict
        start, streak = start_of(self.rows), 0
        for row in self.rows:
            streak = streak + 1 if points(row, start) >= ENOUGH else 0
            if streak == self.patience:
                return int(row["step"])
        return None

    def describe(self) -> str:
        """The signals that are outside now, with their values and where they started."""
        row, start = self.rows[-1], start_of(self.rows)
        keys = {"perplexity": "perplexity", "length": "response_length", "kl": "kl"}
        names = [keys[name] for name in outside(row, start)]
        return ", ".join(
            f"{name} {row[name]:.3g} (at the start {start[name]:.3g})" for name in names
        )
