from collections.abc import Sequence

import pytest

from rlhf.evaluation.comparisons import Comparison
from rlhf.evaluation.responses import EvaluationPrompt, Response
from rlhf.evaluation.summary import position_bias, summarise
from rlhf.evaluation.types import UNJUDGED, Judgement, Outcome

MISSING = Response((3,), "", True, missing=True)


def prompts(count: int) -> list[EvaluationPrompt]:
    return [
        EvaluationPrompt(str(n), "helpful", ({"role": "user", "content": "hi"},), (5,))
        for n in range(count)
    ]


def responses(lengths: Sequence[int]) -> list[Response]:
    return [Response(tuple(range(length)), "text", True) for length in lengths]


def judged(first: float, second: float) -> Judgement:
    outcome: Outcome = "win" if first > second else "lose"
    return Judgement(outcome, outcome, outcome, first, second)


@pytest.mark.parametrize("last_refuses", [True, False])
def test_a_model_is_scored_on_all_prompts_whomever_it_met_last(last_refuses: bool) -> None:
    """`policy` scores 1, 2, 6, 7; the opponent that refuses half of the prompts must not hide the others."""
    policy, sft, other = [1.0, 2.0, 6.0, 7.0], [0.0, 1.0, 1.0, 4.0], [None, None, 3.0, 5.0]
    against_sft = Comparison(
        "policy", "sft", "gold", [judged(a, b) for a, b in zip(policy, sft, strict=True)]
    )
    against_other = Comparison(
        "other", "policy", "gold",
        [UNJUDGED if b is None else judged(b, a) for a, b in zip(policy, other, strict=True)],
    )  # fmt: skip
    comparisons = [against_sft, against_other] if last_refuses else [against_other, against_sft]
    answers = {name: responses([3, 4, 5, 6]) for name in ("policy", "sft")}
    answers["other"] = [MISSING, MISSING, *responses([4, 4])]
    found = summarise(comparisons, prompts(4), answers, 1)
    assert {each.model: each.gold_score for each in found.models} == {
        "policy": 4.0,
        "sft": 1.5,
        "other": 4.0,
    }
    assert {each.model: each.missing for each in found.models} == {
        "policy": 0,
        "sft": 0,
        "other": 2,
    }
    counts = found.scores.counts
    assert {name: sum(bins) for name, bins in counts.items()} == {"policy": 4, "sft": 4, "other": 2}


@pytest.mark.parametrize(("lengths", "expected"), [([4, 4, 4, 4], 0.75), ([9, 8, 9, 8], None)])
def test_the_win_rate_at_equal_length_is_told_where_lengths_overlap(
    lengths: Sequence[int], expected: float | None
) -> None:
    judgements = [judged(score, 0.0) for score in (1.0, 1.0, 1.0, -1.0)]
    answers = {"policy": responses(lengths), "sft": responses([4] * 4)}
    comparison = Comparison("policy", "sft", "gold", judgements)
    headline = summarise([comparison], prompts(4), answers, 1).headline
    assert (headline.challenger, headline.baseline, headline.judge) == ("policy", "sft", "gold")
    assert headline.metrics["win_rate"] == 0.75
    assert headline.metrics["win_rate_length_controlled"] == pytest.approx(expected)
    ends = [headline.metrics[f"win_rate_length_controlled_{end}"] for end in ("low", "high")]
    assert ends == [None, None] if expected is None else 0 <= ends[0] < ends[1] <= 1


def test_every_comparison_by_every_judge_has_its_figures() -> None:
    comparisons = [
        Comparison(challenger, baseline, judge, [judged(1.0, 0.0)] * 3)
        for judge in ("gold", "rules")
        for challenger, baseline in (("policy", "sft"), ("sft", "base"))
    ]
    answers = {name: responses([4, 5, 6]) for name in ("policy", "sft", "base")}
    facts = {"gold": {}, "rules": {"votes": 3}}
    found = summarise(comparisons, prompts(3), answers, 1, facts, {"sft": {}}).as_json()
    rows = found["comparisons"]
    assert [
        (row["challenger"], row["baseline"], row["judge"], row["headline"]) for row in rows
    ] == [
        ("policy", "sft", "gold", True),
        ("sft", "base", "gold", False),
        ("policy", "sft", "rules", False),
        ("sft", "base", "rules", False),
    ]
    for row in rows:
        assert row["metrics"]["win_rate"] == row["kinds"]["helpful"]["win_rate"] == 1.0
        assert set(row["kinds"]["harmless"].values()) == {None}
    # only the gold model's scores are drawn
    assert [row["score_difference"] is None for row in rows] == [False, False, True, True]
    assert [(row["left"], row["right"], row["pairs"]) for row in found["agreement"]] == [
        ("gold", "rules", 6)
    ]
    assert found["judges"] == [{"judge": "rules", "facts": {"votes": 3}}]
    assert found["opponents"] == [] and found["prompts"] == 3


def test_without_a_verdict_there_is_only_the_number_of_prompts() -> None:
    answers = {name: responses([4, 5]) for name in ("policy", "sft")}
    comparison = Comparison("policy", "sft", "people", [UNJUDGED, UNJUDGED])
    (found,) = summarise([comparison], prompts(2), answers, 1).comparisons
    shares = ("win", "tie", "lose", "win_rate", "win_rate_low", "win_rate_high", "count")
    assert found.metrics == dict.fromkeys(shares) | {"unjudged": 2}
    assert found.kinds == {kind: dict.fromkeys(shares) for kind in ("helpful", "harmless")}


def test_position_bias_by_hand() -> None:
    """The first is judged by its order alone, the second alike in both orders, the third only once."""
    judgements = [
        Judgement("win", "lose", "tie", None, None),
        Judgement("win", "win", "win", None, None),
        Judgement("win", None, None, None, None),
    ]
    assert position_bias(judgements) == {"orders_agree": 0.5, "prefers_first_shown": 0.75}
    nothing = {"orders_agree": None, "prefers_first_shown": None}
    assert position_bias([UNJUDGED]) == nothing
