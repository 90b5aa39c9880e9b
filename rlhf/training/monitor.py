"""Signals that training is sound (section 5.2): perplexity, length, KL; not reward or loss.

The rule of the alarm: a policy has collapsed when, for `patience` iterations in a row, at least two
of three signals lie outside of the band around where it started, the mean over the iterations in
which it had not learnt yet. A KL twice as far out as its band counts for two: so far from its
reference a policy is sound by no other signal.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rlhf.algorithms.base import Signals

# of the first log-perplexity of own responses: collapse drives perplexity towards 1
PERPLEXITY_SHARE = 0.5
# of the first response length, up or down
LENGTH_FACTOR = 1.5
# of the first share of responses that end by themselves: the others ran into the limit
FINISHED_SHARE = 0.5
# nats per token above the first
KL_RISE = 0.5
# points: one for each signal outside of its band, two for a KL that is far out
ENOUGH = 2


@dataclass(frozen=True)
class Outside:
    """Which signals have left their bands; the length counts as outside too where few responses end."""

    perplexity: bool
    response_length: bool
    kl: bool

    @property
    def names(self) -> list[str]:
        """Of those that have."""
        return [name for name, is_out in asdict(self).items() if is_out]


def start_of(seen: Mapping[int, Signals]) -> Signals:
    """Mean signals of the iterations up to 0, whose responses are all of the first policy."""
    first = [signals for step, signals in seen.items() if step <= 0] or list(seen.values())[:1]
    columns = {one.name: [getattr(row, one.name) for row in first] for one in fields(Signals)}
    return Signals(**{name: sum(values) / len(values) for name, values in columns.items()})


def outside(now: Signals, start: Signals) -> Outside:
    """Compare the signals with those of the start."""
    # in logarithms: a share of the perplexity itself would mean little
    log_perplexity, first = math.log(now.perplexity), math.log(start.perplexity)
    length = now.response_length / start.response_length
    length_is_out = not 1 / LENGTH_FACTOR <= length <= LENGTH_FACTOR
    few_end = now.finished < FINISHED_SHARE * start.finished
    return Outside(
        perplexity=log_perplexity < PERPLEXITY_SHARE * first,
        response_length=length_is_out or few_end,
        kl=now.kl > start.kl + KL_RISE,
    )


def points(now: Signals, start: Signals) -> int:
    """How much speaks for a collapse: the signals outside, a KL beyond twice its band counted double."""
    far_out = now.kl > start.kl + 2 * KL_RISE
    return len(outside(now, start).names) + int(far_out)


@dataclass
class Watch:
    """What one run's iterations have shown so far; the same on every process, in every checkpoint.

    seen: the signals of each iteration that had any
    """

    patience: int
    seen: dict[int, Signals] = field(default_factory=dict)

    def see(self, step: int, signals: Signals | None) -> None:
        """Take in what an update shows; of those of one iteration the first counts.

        Its responses are of the policy as the iteration before has left it.
        """
        if signals is not None:
            self.seen.setdefault(step, signals)

    @property
    def sound(self) -> bool:
        """Whether too little speaks for a collapse in the last iteration."""
        return not self.seen or points(self._last, start_of(self.seen)) < ENOUGH

    @property
    def collapse(self) -> int | None:
        """The step at which the alarm went off first, or None."""
        if not self.seen:
            return None
        # from all of them, each time: a resumed run comes to the same verdict
        start, streak = start_of(self.seen), 0
        for step, signals in self.seen.items():
            streak = streak + 1 if points(signals, start) >= ENOUGH else 0
            if streak == self.patience:
                return step
        return None

    def describe(self) -> str:
        """The signals that are outside now, with their values and where they started."""
        now, start = self._last, start_of(self.seen)
        return ", ".join(
            f"{name} {getattr(now, name):.3g} (at the start {getattr(start, name):.3g})"
            for name in outside(now, start).names
        )

    @property
    def _last(self) -> Signals:
        return self.seen[max(self.seen)]

    # -- checkpoints -------------------------------------------------------------------------------

    def state(self) -> list[dict[str, Any]]:
        """What a checkpoint holds of it."""
        return [{"step": step, "signals": asdict(one)} for step, one in self.seen.items()]

    def load_state(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Go on from a checkpoint."""
        self.seen = {row["step"]: Signals(**row["signals"]) for row in rows}
