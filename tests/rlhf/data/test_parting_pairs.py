"""Pairs whose sides part before their last answers, and names of speakers within turns, as HH-RLHF has them."""

from typing import Any

import pytest
from raw_files import pair_row, replace_raw, summary_of, transcript

from rlhf.common.files import read_json
from rlhf.data.parse import parse_row
from rlhf.data.prepare import prepare
from rlhf.data.records import Message, Pair
from rlhf.data.rows import BrokenRow
from rlhf.workspace import Workspace

# turns of a dialogue, the user's first
START = ("Which way to the harbour?", "Down the hill.", "And then?")


def sides(chosen: tuple[str, ...], rejected: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row as transcripts, and the same one as lists of messages."""

    def messages(turns: tuple[str, ...]) -> list[dict[str, str]]:
        names = ("user", "assistant")
        return [{"role": names[i % 2], "content": turn} for i, turn in enumerate(turns)]

    return [
        {"chosen": transcript(*chosen), "rejected": transcript(*rejected)},
        {"chosen": messages(chosen), "rejected": messages(rejected)},
    ]


def asked(*turns: str) -> tuple[Message, ...]:
    return tuple(Message("assistant" if i % 2 else "user", turn) for i, turn in enumerate(turns))


def test_the_answers_where_two_sides_part_are_the_pair() -> None:
    later = ("Thank you", "At your service")
    for row in sides((*START, "Left.", *later), (*START, "No idea.", *later)):
        parsed = parse_row(row)
        assert parsed.record == Pair(asked(*START), "Left.", "No idea.")
        assert [change.name for change in parsed.changes] == ["later_turns_left_out"]
    # whatever each goes on with
    for row in sides(("Hi", "Yes?", "a", "b"), ("Hi", "What?", "c", "d")):
        assert parse_row(row).record == Pair(asked("Hi"), "Yes?", "What?")
    # nothing is left out where they part at the end, and where they do not part at all
    for row in sides((*START, "Left."), (*START, "No idea.")):
        assert parse_row(row).changes == ()


@pytest.mark.parametrize(
    ("chosen", "rejected", "hint"),
    [
        # nothing is asked of both
        ((*START, "Left."), (*START[:2], "Thanks", "Bye."), "part in turn 3, which is no answer"),
        (("Hi", "Yes?"), ("Ho", "Yes?"), "part in turn 1, which is no answer"),
        ((*START, "Left."), ("Which way to the harbour?", "No idea."), "4 turns of chosen, 2 of"),
        (("Hi", "Yes?"), ("Hi", "Yes?", "Name a tree", "Oak"), "2 turns of chosen, 4 of rejected"),
    ],
)
def test_sides_that_answer_different_things_are_no_pair(
    chosen: tuple[str, ...], rejected: tuple[str, ...], hint: str
) -> None:
    for row in sides(chosen, rejected):
        with pytest.raises(BrokenRow) as raised:
            parse_row(row)
        assert raised.value.reason == "prompts_differ" and hint in raised.value.detail


def test_the_same_answers_twice_are_no_pair() -> None:
    (row, _) = sides((*START, "Left."), (*START, "Left."))
    with pytest.raises(BrokenRow, match="chosen_equals_rejected"):
        parse_row(row)


@pytest.mark.parametrize(
    "answer",
    [
        "Human: is a noun.",
        "He wrote:\nHuman: wait\nAssistant: no",
        "a Human:  b",
        "Human:\n\nHumans:",
    ],
)
def test_a_name_is_a_turn_only_behind_an_empty_line(answer: str) -> None:
    (row, _) = sides((*START, answer), (*START, "No idea."))
    assert parse_row(row).record == Pair(asked(*START), answer, "No idea.")


def test_behind_an_empty_line_it_is_dropped_and_never_cut_off() -> None:
    quoting = "As in:\n\nHuman: Ahoy\n\nAssistant: Ahoy!"
    (row, _) = sides((*START, quoting), (*START, "No idea."))
    with pytest.raises(BrokenRow) as raised:
        parse_row(row)
    assert raised.value.reason == "prompts_differ"
    (row, _) = sides((*START, "As in:\n\nHuman: Ahoy"), (*START, "No idea."))
    with pytest.raises(BrokenRow, match="not_ending_with_assistant"):
        parse_row(row)
    # where the question has a column of its own, an answer is text
    beside = {"prompt": "Quote one", "chosen": quoting, "rejected": "No idea."}
    assert parse_row(beside).record == Pair(asked("Quote one"), quoting, "No idea.")


def test_prepare_counts_them_with_an_example(workspace: Workspace, make_settings: Any) -> None:
    rows = [pair_row(f"Question {i}", "yes") for i in range(60)]
    later = ("Thank you", "At your service")
    for number in range(2):
        opening = (f"Which way to street {number}?",)
        rows += sides((*opening, "Left.", *later), (*opening, "No idea.", *later))[:1]
    rows += sides(("Hi", "Yes?"), ("Ho", "Yes?"))[:1]
    replace_raw(workspace, "preferences", train=rows)
    prepare(make_settings(), workspace)
    summary = summary_of(workspace)
    assert summary["preferences_changed_later_turns_left_out"] == 2
    assert summary["preferences_dropped_prompts_differ"] == 1
    details = read_json(workspace.details("prepare"))
    file = details["changes"]["preferences: train.jsonl.gz"]["later_turns_left_out"]
    assert (file["rows"], file["line"]) == (2, 61)
