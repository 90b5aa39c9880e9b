"""Judging in both orders: a judge that prefers what it sees first decides nothing."""

from collections.abc import Sequence

from rlhf.common.errors import RlhfError
from rlhf.evaluation.types import Case, Judge, Judgement, Outcome, Preference, Verdict

# what a preference means for the challenger, which is shown first in order and second when swapped
_IN_ORDER: dict[Preference, Outcome] = {"first": "win", "tie": "tie", "second": "lose"}
_SWAPPED: dict[Preference, Outcome] = {"first": "lose", "tie": "tie", "second": "win"}


def judge_both_orders(judge: Judge, cases: Sequence[Case]) -> list[Judgement]:
    """Ask for every case in both orders; one judgement a case, in the cases' order.

    Raises RlhfError when the judge does not answer every case.
    """
    in_order = _verdicts(judge, cases)
    swapped = _verdicts(judge, [case.swapped() for case in cases])

    judgements = []
    for verdict, verdict_swapped in zip(in_order, swapped, strict=True):
        judgements.append(_combine(verdict, verdict_swapped))
    return judgements


def _verdicts(judge: Judge, cases: Sequence[Case]) -> list[Verdict]:
    verdicts = judge.judge(cases)
    if len(verdicts) != len(cases):
        raise RlhfError(
            f"judge {judge.name}: {len(verdicts)} verdicts for {len(cases)} cases; "
            "one each is needed"
        )
    return verdicts


def _combine(verdict: Verdict, verdict_swapped: Verdict) -> Judgement:
    in_order = _outcome(verdict, _IN_ORDER)
    swapped = _outcome(verdict_swapped, _SWAPPED)

    outcome: Outcome | None = None
    if in_order is not None and swapped is not None:
        # where they differ the order decided, not the responses
        outcome = in_order if in_order == swapped else "tie"

    # a judge that scores gives a response one score, whatever the order
    return Judgement(in_order, swapped, outcome, verdict.score_first, verdict.score_second)


def _outcome(verdict: Verdict, outcomes: dict[Preference, Outcome]) -> Outcome | None:
    return None if verdict.preferred is None else outcomes[verdict.preferred]
