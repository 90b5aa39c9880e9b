import json
from pathlib import Path

import pytest

from rlhf.common.errors import DataError
from rlhf.evaluation.both_orders import judge_both_orders
from rlhf.evaluation.judges.people import PeopleJudge, majority, pair_key, text_key
from rlhf.evaluation.types import Case, Preference

MESSAGES = ({"role": "user", "content": "hi"},)


def case(first: str, second: str) -> Case:
    return Case("1", "helpful", MESSAGES, first, second, (), (), ())


def vote(first: str, second: str, preferred: str, annotator: str) -> str:
    content = {
        "pair": pair_key(MESSAGES, first, second), "first": text_key(first), "annotator": annotator,
        "preferred": preferred, "shown_left": "first", "seconds": 1.0, "at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return json.dumps(content)


@pytest.mark.parametrize(
    ("votes", "found"),
    [
        (["first"], "first"),
        (["first", "second"], "tie"),
        (["first", "second", "second"], "second"),
        (["tie", "first"], "tie"),
        ([], None),
    ],
)
def test_majority(votes: list[Preference], found: Preference | None) -> None:
    assert majority(votes) == found


def test_votes_are_found_whichever_response_came_first(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text(
        "\n".join(
            [
                vote("a", "b", "first", "x"),
                vote("b", "a", "second", "y"),
                vote("b", "a", "first", "z"),
            ]
        )
    )
    items = [case("a", "b"), case("b", "a"), case("a", "c"), case("a", "a")]
    ab, ba, unseen, equal = judge_both_orders(PeopleJudge(path), items)
    assert (ab.outcome, ba.outcome, unseen.outcome, equal.outcome) == ("win", "lose", None, "tie")


def test_it_tells_who_voted_and_how_far_they_agree(tmp_path: Path) -> None:
    """Two raters on two pairs, alike on one: observed 1/2; shares of (first of the pair, other) 3/4 and 1/4."""
    path = tmp_path / "votes.jsonl"
    lines = [vote("a", "b", "first", "x"), vote("b", "a", "second", "y")]
    lines += [vote("a", "c", "first", "x"), vote("a", "c", "second", "y")]
    path.write_text("\n".join(lines))
    expected = 0.75**2 + 0.25**2
    kappa = pytest.approx((0.5 - expected) / (1 - expected))
    assert PeopleJudge(path).facts() == {"votes": 4, "annotators": 2, "kappa": kappa}


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text(vote("a", "b", "first", "x") + "\n" + vote("a", "b", "best", "x"))
    with pytest.raises(
        DataError, match=r"votes\.jsonl:2: not a vote: Input should be 'first', 'second' or 'tie'"
    ):
        PeopleJudge(path)
    with pytest.raises(DataError, match="rlhf annotate --export"):
        PeopleJudge(tmp_path / "none")
