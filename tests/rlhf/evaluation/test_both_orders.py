from collections.abc import Sequence
from dataclasses import replace

import pytest

from rlhf.common.errors import RlhfError
from rlhf.evaluation.both_orders import judge_both_orders
from rlhf.evaluation.types import Case, Verdict


def case(first: str, second: str) -> Case:
    ids_first, ids_second = (tuple(len(word) for word in text.split()) for text in (first, second))
    return Case(
        "1",
        "helpful",
        ({"role": "user", "content": "hi"},),
        first,
        second,
        (5,),
        ids_first,
        ids_second,
    )


class LongerJudge:
    """A rule: more characters win."""

    name = "longer"

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        verdicts = []
        for item in cases:
            first, second = len(item.response_first), len(item.response_second)
            verdicts.append(
                Verdict(
                    "tie" if first == second else "first" if first > second else "second",
                    first,
                    second,
                )
            )
        return verdicts

    def facts(self) -> dict[str, float | int | None]:
        return {}


class FirstJudge:
    """Position bias in person: what comes first is better."""

    name = "first"

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        return [Verdict("first") for _ in cases]

    def facts(self) -> dict[str, float | int | None]:
        return {}


class LazyJudge(FirstJudge):
    name = "lazy"

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        return super().judge(cases)[:-1]


def test_a_sound_judge_says_the_same_in_both_orders() -> None:
    found = judge_both_orders(
        LongerJudge(), [case("long answer", "no"), case("no", "long answer"), case("no", "ya")]
    )
    assert [item.outcome for item in found] == ["win", "lose", "tie"]
    assert [item.in_order for item in found] == [item.swapped for item in found]
    assert (found[0].score_first, found[0].score_second) == (11, 2)


def test_position_bias_becomes_a_tie() -> None:
    (found,) = judge_both_orders(FirstJudge(), [case("a", "b")])
    assert (found.in_order, found.swapped, found.outcome) == ("win", "lose", "tie")


class MuteJudge(LongerJudge):
    """Gives no verdict on what is shown first as "no"."""

    name = "mute"

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        verdicts = super().judge(cases)
        return [
            replace(verdict, preferred=None) if item.response_first == "no" else verdict
            for item, verdict in zip(cases, verdicts, strict=True)
        ]


def test_without_a_verdict_in_both_orders_there_is_no_outcome() -> None:
    one, other = judge_both_orders(MuteJudge(), [case("long answer", "no"), case("a", "b")])
    assert (one.in_order, one.swapped, one.outcome) == ("win", None, None)
    assert other.outcome == "tie"


def test_every_case_needs_a_verdict() -> None:
    with pytest.raises(RlhfError, match="lazy: 1 verdicts for 2 cases"):
        judge_both_orders(LazyJudge(), [case("a", "b"), case("c", "d")])


def test_swapping_twice_is_nothing() -> None:
    item = case("one two", "three")
    assert item.swapped() != item
    assert item.swapped().swapped() == item
