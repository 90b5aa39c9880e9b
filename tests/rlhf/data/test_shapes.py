"""Rows of every shape that people publish: the record holds what was written."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_rows import (
    BOWLINE,
    DIALOGUES,
    KNOT,
    PAIRS,
    SYSTEM,
    TEXT,
    TURNS,
    Row,
    dialogue_of,
    openai,
    reason_of,
    sharegpt,
)
from raw_files import transcript

from rlhf.data.parse import parse_row
from rlhf.data.records import Dialogue, Message, Pair, PlainText, Prompt, Record

# -- what was written is what the record holds ---------------------------------------------------


@pytest.mark.parametrize("shape", DIALOGUES)
@settings(deadline=None, max_examples=60)
@given(turns=TURNS, system=st.none() | TEXT)
def test_a_dialogue_of_any_shape_is_what_was_written(
    shape: str, turns: list[str], system: str | None
) -> None:
    messages = dialogue_of(turns, system)
    parsed = parse_row(DIALOGUES[shape](messages))
    assert parsed.record == Dialogue(messages)
    assert not parsed.changes and not parsed.unread


@pytest.mark.parametrize("shape", PAIRS)
@settings(deadline=None, max_examples=60)
@given(turns=TURNS, system=st.none() | TEXT, rejected=TEXT)
def test_a_pair_of_any_shape_is_what_was_written(
    shape: str, turns: list[str], system: str | None, rejected: str
) -> None:
    rejected += " no"
    messages = dialogue_of(turns, system)
    row = PAIRS[shape](messages, rejected)
    if turns[-1].strip() == rejected.strip():
        return
    parsed = parse_row(row)
    assert parsed.record == Pair(messages[:-1], turns[-1], rejected)
    assert not parsed.changes


@settings(deadline=None, max_examples=60)
@given(
    turns=TURNS,
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    stripped=st.booleans(),
)
def test_a_transcript_is_what_was_written_but_for_its_line_ends(
    turns: list[str], line_end: str, stripped: bool
) -> None:
    rejected = [*turns[:-1], turns[-1] + " no"]
    sides = [transcript(*side).replace("\n", line_end) for side in (turns, rejected)]
    if stripped:
        sides = [side.lstrip() for side in sides]
    record = parse_row({"chosen": sides[0], "rejected": sides[1]}).record
    # a line end within a turn is a line feed, as in any text
    assert record == Pair(dialogue_of(turns, None)[:-1], turns[-1], rejected[-1])


@settings(deadline=None, max_examples=60)
@given(text=TEXT)
def test_plain_text_and_prompts_are_what_was_written(text: str) -> None:
    assert parse_row({"text": text, "messages": None}).record == PlainText(text)
    asked = Prompt((Message("user", text),))
    for name in ("prompt", "question", "instruction", "query", "Goal"):
        assert parse_row({name: text}).record == asked
    assert parse_row({"turns": [text, "more"]}).record == asked


# -- the shapes one by one -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "record"),
    [
        # a part whose text is null, or is not there, is as absent
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": None}, {"text": "Who?"}]},
                    {"role": "assistant", "content": [{"type": "text"}, {"text": "I."}]},
                ]
            },
            Dialogue((Message("user", "Who?"), Message("assistant", "I."))),
        ),
        (
            {"instruction": "Who wrote it?", "context": "By M. Arden.", "response": "M. Arden."},
            Dialogue(
                (
                    Message("user", "Who wrote it?\n\nBy M. Arden."),
                    Message("assistant", "M. Arden."),
                )
            ),
        ),
        (
            {"instruction": "Add.", "input": "2 and 3", "chosen": "5", "rejected": "6"},
            Pair((Message("user", "Add.\n\n2 and 3"),), "5", "6"),
        ),
        (
            {"system_prompt": "You are a sailor.", "question": KNOT[0].content, "response": "For."},
            Dialogue((SYSTEM, KNOT[0], Message("assistant", "For."))),
        ),
        # the same system message in a column and in the list is two
        (
            {"conversations": sharegpt(KNOT), "system": SYSTEM.content},
            Dialogue((SYSTEM, *KNOT)),
        ),
        (
            {
                "messages": [
                    {"role": "developer", "content": SYSTEM.content},
                    {"role": "user", "content": KNOT[0].content},
                    {"role": "model", "content": KNOT[1].content},
                ]
            },
            Dialogue((SYSTEM, *KNOT)),
        ),
        ({"messages": openai((Message("system", " "), *KNOT))}, Dialogue(KNOT)),
        (
            {
                "instruction": BOWLINE[0].content,
                "output": BOWLINE[1].content,
                "history": openai(KNOT),
                "system": "",
            },
            Dialogue((*KNOT, *BOWLINE)),
        ),
        (
            {
                "prompt": transcript(KNOT[0].content) + "\n\nAssistant:",
                "chosen": "For tying.",
                "rejected": " For soup.",
            },
            Pair(KNOT[:1], "For tying.", " For soup."),
        ),
        (
            {"prompt": "Human: Why?\n\nAssistant:", "completion": " Because."},
            Dialogue((Message("user", "Why?"), Message("assistant", " Because."))),
        ),
        # a user may well speak like this
        ({"prompt": "Human: who are you?"}, Prompt((Message("user", "Human: who are you?"),))),
        (
            {"question": "Human: or Assistant: first?"},
            Prompt((Message("user", "Human: or Assistant: first?"),)),
        ),
        (
            {"prompt": "Why?", "chosen": "Human: is mortal.", "rejected": "No."},
            Pair((Message("user", "Why?"),), "Human: is mortal.", "No."),
        ),
        (
            {"prompt": "Why?", "completion": "So.", "label": True},
            Dialogue((Message("user", "Why?"), Message("assistant", "So."))),
        ),
        (
            {"instruction": "Sum", "instances": [{"input": "1 2", "output": "3"}, {"output": "4"}]},
            Dialogue((Message("user", "Sum\n\n1 2"), Message("assistant", "3"))),
        ),
    ],
)
def test_known_shapes(row: Row, record: Record) -> None:
    assert parse_row(row).record == record


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (
            {"frage": "Warum?", "antwort": "Darum."},
            "unknown_shape",
            "columns antwort, frage; data.c",
        ),
        ({"messages": None, "id": 3}, "unknown_shape", "columns id"),
        ({"prompt": "Why?", "completion": "So.", "label": False}, "labelled_bad", ""),
        ({"chosen": "So.", "rejected": "No.", "frage": "Why?"}, "not_a_transcript", ""),
        (
            {"messages": [*openai(KNOT[:1]), {"role": "tool", "content": "7"}]},
            "tool_use",
            "a call of a tool",
        ),
        (
            {
                "messages": [
                    *openai(KNOT[:1]),
                    {"role": "assistant", "content": "I ask.", "tool_calls": [{"id": "c1"}]},
                ]
            },
            "tool_use",
            "a call of a tool",
        ),
        (
            {"messages": [{"role": "user", "parts": "x"}]},
            "no_content",
            "messages: a message of user without content; its keys: parts, role",
        ),
        ({"messages": [{"role": "robot", "content": "x"}]}, "unknown_role", "messages: role robot"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "not_text",
            "messages: a part of type image_url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
            "wrong_type",
            "messages: a part whose text is int",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
            "empty_message",
            "",
        ),
        ({"instruction": "x", "output": "y", "history": [["a"]]}, "wrong_type", "history: not in"),
        (
            {"question": "Is 2 even?", "answer": True},
            "wrong_type",
            "answer: bool in place of text or messages",
        ),
        ({"instruction": "x", "output": float("inf")}, "wrong_type", "output: float in place"),
        (
            {"prompt": "x", "chosen": True, "rejected": False},
            "wrong_type",
            "chosen: bool in place of text",
        ),
        ({"messages": "[{'role': 'user'}]"}, "wrong_type", "messages: str in place"),
        ({"turns": "['Why?', 'And now?']"}, "wrong_type", "turns: no list of turns"),
        ({"turns": []}, "wrong_type", "turns: no list of turns"),
        # nobody knows what stands between several texts
        (
            {"question": "Who?", "context": ["Born here.", "Died there."], "answer": "X."},
            "wrong_type",
            "context: a list of 2 texts in place of one",
        ),
        (
            {"prompt": "Why?", "chosen": "So.", "rejected": ["No.", "Never."]},
            "wrong_type",
            "rejected: str in place of a message",
        ),
        (
            {"context": openai(KNOT[:1]), "response": "So."},
            "wrong_type",
            "context: messages in place of text; data.columns.messages names them",
        ),
        ({"system": {"role": "system", "content": "x"}, "prompt": "Why?"}, "wrong_type", "system:"),
        ({"prompt": "2?", "steps": "2", "labels": [1]}, "wrong_type", "steps: str in place of a"),
        ({"prompt": "2?", "steps": ["2"], "labels": "1"}, "wrong_type", "labels: str in place"),
        ({"question": "x", "answer": " "}, "empty_answer", ""),
    ],
)
def test_what_cannot_be_used_is_told(row: Row, reason: str, detail: str) -> None:
    found, said = reason_of(row)
    assert found == reason and said.startswith(detail) and bool(said) == bool(detail)


@pytest.mark.parametrize("name", ["label", "kto_tag"])
@pytest.mark.parametrize(
    ("values", "is_good"),
    [
        ((True, 1, 1.0, "1", "true", "True", " TRUE", "desirable", "Chosen"), True),
        ((False, 0, -1, -1.0, "-1", "false", "FALSE ", "Undesirable", "rejected"), False),
    ],
)
def test_labels_of_answers_that_people_wanted_or_not(
    name: str, values: tuple[object, ...], is_good: bool
) -> None:
    row = {"prompt": "Why?", "completion": "So."}
    for value in values:
        if is_good:
            assert parse_row({**row, name: value}).unread == ()
        else:
            assert reason_of({**row, name: value})[0] == "labelled_bad", value
    # neither: it is not read, which is told
    for value in ("neutral", 2, "5 stars"):
        assert parse_row({**row, name: value}).unread == (name,)


@pytest.mark.parametrize(
    ("row", "record"),
    [
        (
            {"question": "What is 6 x 7?", "answer": 42},
            Dialogue((Message("user", "What is 6 x 7?"), Message("assistant", "42"))),
        ),
        (
            {"prompt": 7, "chosen": 0.5, "rejected": -1},
            Pair((Message("user", "7"),), "0.5", "-1"),
        ),
        (
            {"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": 2}]},
            Dialogue((Message("user", "1"), Message("assistant", "2"))),
        ),
        ({"text": 1984}, PlainText("1984")),
        ({"text": Decimal("3.50")}, PlainText("3.50")),
        (
            {"instruction": "Add.", "instances": [{"input": 3, "output": 4}]},
            Dialogue((Message("user", "Add.\n\n3"), Message("assistant", "4"))),
        ),
    ],
)
def test_a_number_is_its_text_and_is_counted(row: Row, record: Record) -> None:
    parsed = parse_row(row)
    assert parsed.record == record and not parsed.unread
    assert [change.name for change in parsed.changes] == ["number_as_text"]


def test_nan_is_as_absent() -> None:
    """As libraries of tables write null."""
    nan = float("nan")
    row = {"system": nan, "messages": nan, "history": nan, "prompt": "Why?", "completion": "So."}
    parsed = parse_row({**row, "label": nan, "reference": nan})
    assert parsed.record == Dialogue((Message("user", "Why?"), Message("assistant", "So.")))
    assert parsed.reference is None and not parsed.unread and not parsed.changes
    assert reason_of({"messages": [{"role": "user", "content": nan}]})[0] == "no_content"
    assert reason_of({"chosen": nan, "rejected": "No."})[0] == "unknown_shape"


def test_turns_and_examples_that_are_left_out_are_counted() -> None:
    asked = (Message("user", "Why?"),)
    for row in ({"turns": ["Why?", "And now?"]}, {"prompt": ["Why?", "And now?"], "category": ""}):
        parsed = parse_row(row)
        assert parsed.record == Prompt(asked) and not parsed.unread
        assert [change.name for change in parsed.changes] == ["later_turns_left_out"]
    assert not parse_row({"turns": ["Why?"]}).changes
    assert parse_row({"turns": ["Why?"], "system": SYSTEM.content}).record == Prompt(
        (SYSTEM, *asked)
    )
    examples = [{"input": "", "output": "3"}, {"output": "4"}]
    parsed = parse_row({"instruction": "Sum", "instances": examples})
    assert [change.name for change in parsed.changes] == ["later_examples_left_out"]


def test_answers_that_differ_in_their_ends_alone_are_no_pair() -> None:
    assert reason_of({"prompt": "Why?", "chosen": "So.", "rejected": " So.\n"})[0] == (
        "chosen_equals_rejected"
    )


def test_rows_are_counted_not_the_texts_that_changed() -> None:
    parsed = parse_row({"question": "a\r\nb\x00", "answer": "c\r\nd"})
    assert [change.name for change in parsed.changes] == ["line_ends", "unusable_characters"]
    assert parsed.changes[0].before == "a\r\nb\x00"


def test_what_is_not_read_is_told() -> None:
    message = {"role": "assistant", "content": "So.", "reasoning_content": "Hm.", "name": None}
    row = {
        "messages": [{"role": "user", "content": "Why?"}, message],
        "category": "qa",
        "tags": [],
        "kind": "helpful",
    }
    assert parse_row(row).unread == ("category", "message.reasoning_content")
