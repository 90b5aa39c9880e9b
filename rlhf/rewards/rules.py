"""Rewards that are a rule: no model is asked.

Each is a pure function first, then a class that makes a reward of it. What a rule takes off is
negative, so that weights are positive.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from rlhf.batches.tables import has_column, table_path
from rlhf.common.errors import DataError
from rlhf.rewards.base import RewardContext
from rlhf.rewards.records import ResponseRecord
from rlhf.rollout.records import Rollout
from rlhf.settings.rewards import format_pattern, overlong_lengths, repetition_size

# -- lengths and ends ------------------------------------------------------------------------------


def overlong_penalty(length: int, limit: int, buffer: int) -> float:
    """0 up to limit - buffer tokens, then down evenly to -1 at the limit (DAPO, arXiv 2503.14476, eq. 13)."""
    free = limit - buffer
    if length <= free:
        return 0.0
    if length <= limit:
        return (free - length) / buffer
    return -1.0


class OverlongPenalty:
    """`overlong:LENGTH:BUFFER`: a soft penalty in the last BUFFER tokens before LENGTH, -1 beyond."""

    score_std = 0.5

    def __init__(self, context: RewardContext, detail: str) -> None:
        self._limit, self._buffer = overlong_lengths(detail)

    def scores(self, rollout: Rollout) -> Tensor:
        """[B] float32 from -1 to 0; the end token counts."""
        found = [overlong_penalty(len(ids), self._limit, self._buffer) for ids in rollout.responses]
        return torch.tensor(found, device=rollout.finished.device)


class MissingEndPenalty:
    """`missing-end`: -1 for a response that ran into the limit instead of ending by itself."""

    score_std = 0.5

    def __init__(self, context: RewardContext, detail: str) -> None:
        pass

    def scores(self, rollout: Rollout) -> Tensor:
        """[B] float32, -1 or 0."""
        return rollout.finished.float() - 1


# -- repetition ------------------------------------------------------------------------------------


def repeated_share(ids: Sequence[int], n: int) -> float:
    """The share of n-grams that stood in the sequence before; 0 for one shorter than n."""
    grams = [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


class RepetitionPenalty:
    """`repetition:N`: minus the share of runs of N tokens that repeat an earlier one."""

    score_std = 0.25

    def __init__(self, context: RewardContext, detail: str) -> None:
        self._n = repetition_size(detail)

    def scores(self, rollout: Rollout) -> Tensor:
        """[B] float32 from -1 to 0."""
        found = [-repeated_share(ids, self._n) for ids in rollout.responses]
        return torch.tensor(found, device=rollout.finished.device)


# -- format ----------------------------------------------------------------------------------------


class FormatReward:
    """`format:PATTERN`: 1 where the regular expression matches the whole response, blanks around it aside."""

    score_std = 0.5

    def __init__(self, context: RewardContext, detail: str) -> None:
        self._pattern = format_pattern(detail)

    def scores_of(self, records: Sequence[ResponseRecord]) -> Sequence[float | None]:
        """1.0 or 0.0 each."""
        return [float(bool(self._pattern.fullmatch(one.response.strip()))) for one in records]


# -- the right answer ------------------------------------------------------------------------------

_BOXED = "\\boxed{"
# 1,234.5 or 1/2 or 3e8; longer ones are compared as text
_NUMBER = re.compile(
    r"[+-]?([0-9]{1,60}|[0-9]{1,3}(,[0-9]{3}){1,20})?(\.[0-9]{0,60})?([eE][+-]?[0-9]{1,2})?"
)
_RATIO = re.compile(r"([^/ ]+) */ *([^/ ]+)")
_MIXED = re.compile(r"([0-9]{1,60}) +([0-9]{1,60}) */ *([0-9]{1,60})")
_SIGNED = re.compile(r"([+-]?) *\$? *(.*)")


def answer_in(text: str, marker: str) -> str | None:
    """The answer that a text gives: its last line, or what stands after the marker; None for none.

    marker: "" for the last line, `boxed` for what stands in the last \\boxed{}, else any text, of which
        the last one counts, up to the end of its line
    """
    if marker == "boxed":
        return _in_last_box(text)
    if marker:
        _, found, behind = text.rpartition(marker)
        lines = behind.strip().splitlines() if found else []
        return lines[0].strip() if lines else None
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else None


def _in_last_box(text: str) -> str | None:
    """What stands between the braces, which may hold braces themselves."""
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    depth, begin = 1, start + len(_BOXED)
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place].strip()
    # cut off in the middle
    return None


def same_answer(answer: str, reference: str) -> bool:
    """Whether two answers are equal: as numbers where both are, else letter by letter.

    Blanks around them and a full stop behind them aside.
    """
    answer, reference = (text.strip().removesuffix(".").strip() for text in (answer, reference))
    numbers = number_of(answer), number_of(reference)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return answer == reference


def number_of(text: str) -> Fraction | None:
    """The number that a text spells, exactly: 1,234.50, -3, 1/2, 1 1/2, 2e3, $5; None for any other text."""
    signed = _SIGNED.fullmatch(text.strip().replace("\u2212", "-"))
    if signed is None:
        return None
    size = _without_sign(signed[2])
    return -size if size is not None and signed[1] == "-" else size


def _without_sign(text: str) -> Fraction | None:
    if mixed := _MIXED.fullmatch(text):
        whole, above, below = (int(part) for part in mixed.groups())
        return whole + Fraction(above, below) if below else None
    if ratio := _RATIO.fullmatch(text):
        numerator, denominator = _decimal(ratio[1]), _decimal(ratio[2])
        return numerator / denominator if numerator is not None and denominator else None
    return _decimal(text)


def _decimal(text: str) -> Fraction | None:
    if not any(sign.isdigit() for sign in text) or not _NUMBER.fullmatch(text):
        return None
    try:
        return Fraction(text.replace(",", ""))
    # an exponent without a number
    except ValueError:
        return None


class ExactAnswer:
    """`exact` or `exact:MARKER`: 1 where the answer that a response gives equals the reference.

    The answer is the last line, or what stands after the last MARKER, as `####`, or in the last
    \\boxed{} for `exact:boxed`. A reference that has the marker too is read the same way. A response
    to a prompt without a reference counts as a failure.
    """

    score_std = 0.5

    def __init__(self, context: RewardContext, detail: str) -> None:
        """Raises DataError where no prompt has a reference."""
        self._marker = detail
        if not has_column(context.workspace, "prompts", "reference"):
            raise DataError(
                table_path(context.workspace, "prompts"),
                "reward exact compares with reference answers, and no row has one; rows of "
                "data.prompts give it under the key `reference`",
            )

    def scores_of(self, records: Sequence[ResponseRecord]) -> Sequence[float | None]:
        """1.0 or 0.0 each, None without a reference."""
        return [
            None if one.reference is None else self._score(one.response, one.reference)
            for one in records
        ]

    def _score(self, response: str, reference: str) -> float:
        answer = answer_in(response, self._marker)
        marked = answer_in(reference, self._marker) if self._marker else None
        return float(answer is not None and same_answer(answer, marked or reference))
