"""A column that holds nothing is no column, where another one has what it should hold."""

from pathlib import Path

import pandas as pd
import pytest
from published_rows import Row, openai, reason_of
from raw_files import seen, written

from rlhf.data.parse import parse_row
from rlhf.data.records import Dialogue, Message, Pair, PlainText, Prompt, Record

ASKED, ANSWER = Message("user", "Why?"), Message("assistant", "So.")
DIALOGUE, PAIR = Dialogue((ASKED, ANSWER)), Pair((ASKED,), "So.", "No.")
SIDES = {"chosen": "So.", "rejected": "No."}


@pytest.mark.parametrize(
    ("row", "record"),
    [
        ({"messages": [], "prompt": "Why?", "completion": "So."}, DIALOGUE),
        ({"messages": "", "conversations": openai((ASKED, ANSWER))}, DIALOGUE),
        ({"chosen": "", "rejected": "", "prompt": "Why?", "completion": "So."}, DIALOGUE),
        ({"chosen": "", "rejected": "", "messages": openai((ASKED, ANSWER))}, DIALOGUE),
        ({"instruction": "", "prompt": "Why?", "output": "So."}, DIALOGUE),
        ({"prompt": "Why?", "output": "", "response": "So."}, DIALOGUE),
        ({"prompt": "Why?", "output": {}, "answer": [], "completion": "So."}, DIALOGUE),
        ({"instruction": "Why?", "instances": [], "output": "So."}, DIALOGUE),
        ({"steps": [], "labels": [], "prompt": "Why?", "completion": "So."}, DIALOGUE),
        ({"messages": [], "prompt": "Why?", **SIDES}, PAIR),
        ({"messages": [], "instruction": "", "question": "Why?", **SIDES}, PAIR),
        ({"messages": [], "prompt": "Why?"}, Prompt((ASKED,))),
        ({"turns": [], "Goal": "", "question": "Why?"}, Prompt((ASKED,))),
        ({"prompt": "", "completion": "", "text": "Rain."}, PlainText("Rain.")),
    ],
)
def test_what_holds_something_counts(row: Row, record: Record) -> None:
    parsed = parse_row(row)
    assert parsed.record == record and not parsed.unread


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Why?", "completion": ""}, "empty_answer"),
        ({"instruction": "Why?", "output": "", "input": ""}, "empty_answer"),
        ({"prompt": "Why?", "chosen": "So.", "rejected": ""}, "empty_answer"),
        # the other side would be lost
        ({"prompt": "Why?", "completion": "So.", "chosen": "", "rejected": "No."}, "empty_answer"),
        ({"prompt": "Why?", "steps": [], "labels": []}, "no_steps"),
        ({"messages": [], "prompt": ""}, "no_messages"),
        ({"text": ""}, "empty_text"),
    ],
)
def test_a_row_without_an_answer_is_no_question(row: Row, reason: str) -> None:
    assert reason_of(row)[0] == reason


def test_files_of_several_shapes_are_read(tmp_path: Path) -> None:
    rows = [
        {"messages": openai((ASKED, ANSWER)), "prompt": "", "completion": ""},
        {"messages": [], "prompt": "Why?", "completion": "So."},
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    table = b"prompt,completion,chosen,rejected\nWhy?,So.,,\nWhy?,,So.,No.\n"
    written(tmp_path / "b.csv", table)
    assert [parse_row(row).record for _, row in seen(tmp_path / "a.parquet")] == [DIALOGUE] * 2
    assert [parse_row(row).record for _, row in seen(tmp_path / "b.csv")] == [DIALOGUE, PAIR]


@pytest.mark.parametrize("answer", ["output", "response", "answer", "completion"])
def test_messages_that_end_with_the_user_have_their_answer_beside_them(answer: str) -> None:
    row = {"messages": openai((ASKED,)), answer: "So."}
    assert parse_row(row).record == DIALOGUE and not parse_row(row).unread
    assert parse_row({"messages": openai((ASKED,)), answer: openai((ANSWER,))}).record == DIALOGUE
    assert reason_of({**row, "label": False})[0] == "labelled_bad"
    assert parse_row({**row, answer: ""}).record == Prompt((ASKED,))
    # they have one of their own, and the other is told
    whole = parse_row({"messages": openai((ASKED, ANSWER)), answer: "No."})
    assert whole.record == DIALOGUE and whole.unread == (answer,)
