from collections.abc import Sequence

import pytest

from rlhf.evaluation.responses import Prompt, Response
from rlhf.evaluation.summary import Comparison, details, summary
from rlhf.evaluation.types import UNJUDGED, Judgement, Outcome

MISSING = Response((3,), "", True, missing=True)


def prompts(count: int) -> list[Prompt]:
    return [
        Prompt(str(n), "helpful", ({"role": "user", "content": "hi"},), (5,)) for n in range(count)
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
    found = summary(comparisons, prompts(4), answers, 1)
    assert {name: found[f"gold_score_{name}"] for name in answers} == {
        "policy": 4.0,
        "sft": 1.5,
        "other": 4.0,
    }
    counts = details(comparisons, prompts(4), answers)["scores"]["counts"]
    assert {name: sum(bins) for name, bins in counts.items()} == {"policy": 4, "sft": 4, "other": 2}


@pytest.mark.parametrize(("lengths", "expected"), [([4, 4, 4, 4], 0.75), ([9, 8, 9, 8], None)])
def test_the_win_rate_at_equal_length_is_told_where_lengths_overlap(
    lengths: Sequence[int], expected: float | None
) -> None:
    judgements = [judged(score, 0.0) for score in (1.0, 1.0, 1.0, -1.0)]
    answers = {"policy": responses(lengths), "sft": responses([4] * 4)}
    found = summary([Comparison("policy", "sft", "gold", judgements)], prompts(4), answers, 1)
    assert (found["compared"], found["judge"]) == ("policy with sft", "gold")
    assert found["win_rate"] == 0.75 and found["win_rate_length_controlled"] == pytest.approx(
        expected
    )
    told = [found[f"win_rate_length_controlled_{end}"] for end in ("low", "high")]
    assert told == [None, None] if expected is None else 0 <= told[0] < told[1] <= 1
