from typing import Any

import pytest
from raw_files import transcript

from rlhf.data.parse import Parsed, parse_row
from rlhf.data.records import Dialogue, Message, Pair, PlainText, Prompt, Record, Solution
from rlhf.data.rows import BrokenRow

QUESTION, ANSWER = Message("user", "Why?"), Message("assistant", "Because.")


def as_chat(*messages: Message) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


DIALOGUE = Dialogue((QUESTION, ANSWER))
PAIR = Pair((QUESTION,), "Because.", "No.")
THREE_TURNS = (Message("user", "Hi"), Message("assistant", "Hello"), QUESTION)
WITH_SYSTEM = (Message("system", "Be kind."), QUESTION, ANSWER)
SUM = Dialogue((Message("user", "Sum\n\n1 2"), Message("assistant", "3")))
STEPS = {"prompt": "Why?", "steps": ["One.", " Two. "]}
REJECTED = [{"role": "assistant", "content": "No."}]
TRANSCRIPTS = {
    "chosen": transcript("Hi", "Hello", "Why?", "Because."),
    "rejected": transcript("Hi", "Hello", "Why?", "No."),
}


@pytest.mark.parametrize(
    ("row", "record", "kind"),
    [
        (TRANSCRIPTS, Pair(THREE_TURNS, "Because.", "No."), "other"),
        (
            {
                "kind": "harmless",
                "messages": as_chat(QUESTION),
                "chosen": "Because.",
                "rejected": "No.",
            },
            PAIR,
            "harmless",
        ),
        (
            {
                "prompt": "Why?",
                "chosen": as_chat(QUESTION, ANSWER),
                "rejected": as_chat(QUESTION) + REJECTED,
            },
            PAIR,
            "other",
        ),
        (
            {"prompt": as_chat(QUESTION), "chosen": as_chat(ANSWER), "rejected": REJECTED},
            PAIR,
            "other",
        ),
        ({"prompt": "Why?", "chosen": "Because.", "rejected": "No."}, PAIR, "other"),
        ({"messages": as_chat(*WITH_SYSTEM)}, Dialogue(WITH_SYSTEM), "other"),
        ({"messages": as_chat(QUESTION)}, Prompt((QUESTION,)), "other"),
        (
            {
                "messages": [
                    {"from": "human", "value": "Why?"},
                    {"from": "gpt", "value": "Because."},
                ]
            },
            DIALOGUE,
            "other",
        ),
        (
            {"instruction": "Why?", "input": "", "output": "Because.", "category": "qa"},
            DIALOGUE,
            "helpful",
        ),
        ({"instruction": "Sum", "input": "1 2", "output": "3"}, SUM, "helpful"),
        ({"instruction": "Sum", "instances": [{"input": "1 2", "output": "3"}]}, SUM, "helpful"),
        (
            {"prompt": "\n\nHuman: Why?\n\nAssistant:", "source_row": 3},
            Prompt((QUESTION,)),
            "other",
        ),
        ({"question_id": 1, "turns": ["Why?", "And then?"]}, Prompt((QUESTION,)), "helpful"),
        ({"Goal": "Why?", "Target": "Sure"}, Prompt((QUESTION,)), "harmless"),
        ({"text": " Some\r\ntext. "}, PlainText(" Some\ntext. "), "plain"),
        (
            {**STEPS, "labels": [True, False], "finished": False},
            Solution((QUESTION,), ("One.", " Two. "), (1.0, 0.0), finished=False),
            "other",
        ),
        (
            {"messages": as_chat(*THREE_TURNS), "steps": ["One.", "Two."], "labels": [0.375, None]},
            Solution(THREE_TURNS, ("One.", "Two."), (0.375, None)),
            "other",
        ),
        # as TRL has it
        (
            {"prompt": "Why?", "completions": ["One.", "Two."], "labels": [1, 0]},
            Solution((QUESTION,), ("One.", "Two."), (1.0, 0.0)),
            "other",
        ),
    ],
)
def test_every_shape_is_recognised(row: dict[str, Any], record: Record, kind: str) -> None:
    assert parse_row(row) == Parsed(record, kind)


def test_kind_of_the_row_beats_the_files_and_the_files_the_shapes() -> None:
    assert parse_row({"Goal": "x", "kind": "helpful"}, "harmless").kind == "helpful"
    assert parse_row({"turns": ["x"]}, "harmless").kind == "harmless"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"chosen": transcript("Why?", "Yes."), "rejected": transcript("Why?", "Yes. ")},
            "chosen_equals_rejected",
        ),
        (
            {"chosen": transcript("Why?", ""), "rejected": transcript("Why?", "Yes.")},
            "empty_answer",
        ),
        (
            {"chosen": transcript("Why?", "Yes.", "And?"), "rejected": transcript("Why?", "No.")},
            "not_ending_with_assistant",
        ),
        (
            {"chosen": transcript("Why?", "Yes."), "rejected": transcript("How?", "No.")},
            "prompts_differ",
        ),
        (
            {
                "chosen": transcript("Why?", "", "And?", "Yes."),
                "rejected": transcript("Why?", "", "And?", "No."),
            },
            "empty_message",
        ),
        (
            {
                "chosen": transcript("Why?", "Yes.") + "\n\nAssistant: x",
                "rejected": transcript("Why?", "No."),
            },
            "same_role_twice",
        ),
        ({"chosen": "Hello", "rejected": transcript("Why?", "No.")}, "not_a_transcript"),
        (
            {"messages": [{"role": "user", "content": "Why?"}], "chosen": "", "rejected": "No."},
            "empty_answer",
        ),
        ({"messages": []}, "no_messages"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "assistant_first"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "unknown_role"),
        ({"messages": "Hi"}, "wrong_type"),
        ({"messages": [{"role": "user", "content": None}]}, "no_content"),
        ({"instruction": "Sum", "output": ""}, "empty_answer"),
        ({"prompt": transcript("Why?", "Because.")}, "not_ending_with_user"),
        ({"turns": []}, "wrong_type"),
        ({"text": " \n "}, "empty_text"),
        ({"frage": "Why?"}, "unknown_shape"),
        ({**STEPS, "labels": [True]}, "labels_are_not_as_many_as_steps"),
        ({**STEPS, "labels": [None, None]}, "no_labels"),
        # which elsewhere marks a token without a label; bool(-100) is True
        ({**STEPS, "labels": [-100, True]}, "not_a_label"),
        ({**STEPS, "labels": [1.5, True]}, "not_a_label"),
        ({**STEPS, "labels": [float("nan"), True]}, "not_a_label"),
        ({**STEPS, "labels": ["+", "-"]}, "not_a_label"),
        ({**STEPS, "labels": True}, "wrong_type"),
        ({**STEPS, "labels": [True, True], "finished": "no"}, "wrong_type"),
        ({"prompt": "Why?", "steps": ["One.", " "], "labels": [1, 1]}, "empty_step"),
        ({"prompt": "Why?", "steps": ["One.", 2], "labels": [1, 1]}, "wrong_type"),
        ({"prompt": "Why?", "steps": [], "labels": []}, "no_steps"),
        ({"steps": ["One."], "labels": [1]}, "no_question"),
        (
            {"messages": as_chat(QUESTION, ANSWER), "steps": ["One."], "labels": [1]},
            "not_ending_with_user",
        ),
    ],
)
def test_broken_rows_are_named_by_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BrokenRow) as raised:
        parse_row(row)
    assert raised.value.reason == reason
