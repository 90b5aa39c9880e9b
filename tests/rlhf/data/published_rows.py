"""Rows as people publish them: the same dialogue or pair, written in every shape."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

from rlhf.data.parse import parse_row
from rlhf.data.records import Message, Messages
from rlhf.data.rows import BrokenRow
from rlhf.data.rules import Rules

Row = dict[str, Any]

SYSTEM = Message("system", "You are a sailor.")
KNOT = (Message("user", "What is a reef knot for?"), Message("assistant", "For tying a sail."))
BOWLINE = (Message("user", "And a bowline?"), Message("assistant", "For a loop that holds."))
RULES = Rules()


def reason_of(row: Row, rules: Rules = RULES) -> tuple[str, str]:
    with pytest.raises(BrokenRow) as raised:
        parse_row(row, None, rules)
    return raised.value.reason, raised.value.detail


def sharegpt(messages: Messages) -> list[Row]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[m.role], "value": m.content} for m in messages]


def openai(messages: Messages) -> list[Row]:
    return [{"role": m.role, "content": m.content} for m in messages]


def in_parts(messages: Messages) -> list[Row]:
    return [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": message.content[:3]},
                {"type": "text", "text": message.content[3:], "image_url": None},
            ],
        }
        for message in messages
    ]


# no control characters, and no halves of characters, which no file holds
TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t<>&;"), max_size=25
).filter(lambda text: bool(text.strip()))
# what stands behind a colon of a transcript may not look like its next turn
TURNS = st.lists(TEXT, min_size=2, max_size=6).filter(lambda turns: len(turns) % 2 == 0)


def dialogue_of(turns: list[str], system: str | None) -> Messages:
    front = (Message("system", system),) if system is not None else ()
    return front + tuple(
        Message("assistant" if place % 2 else "user", text) for place, text in enumerate(turns)
    )


def split(messages: Messages) -> tuple[str | None, Messages, Message, Message]:
    """System, earlier turns, the last question and its answer."""
    system = messages[0].content if messages[0].role == "system" else None
    turns = messages[1:] if system is not None else messages
    return system, turns[:-2], turns[-2], turns[-1]


def with_columns(question: str, answer: str) -> Callable[[Messages], Row]:
    """System and history in columns of their own, as Alpaca's relatives have it."""

    def write(messages: Messages) -> Row:
        system, before, asked, answered = split(messages)
        texts = [message.content for message in before]
        history = [list(exchange) for exchange in zip(texts[::2], texts[1::2], strict=True)]
        return {
            question: asked.content,
            answer: answered.content,
            "system": system,
            "history": history or None,
        }

    return write


DIALOGUES: dict[str, Callable[[Messages], Row]] = {
    "messages": lambda m: {"messages": openai(m)},
    "messages in parts": lambda m: {"messages": in_parts(m)},
    "conversations": lambda m: {"conversations": sharegpt(m), "prompt": None},
    "conversation": lambda m: {"conversation": openai(m), "text": None},
    "prompt and completion": lambda m: {"prompt": openai(m[:-1]), "completion": openai(m[-1:])},
    "prompt and one message": lambda m: {"prompt": openai(m[:-1]), "response": openai(m[-1:])[0]},
    "alpaca": with_columns("instruction", "output"),
    "dolly": with_columns("instruction", "response"),
    "question and answer": with_columns("question", "answer"),
    "query and response": with_columns("query", "response"),
    "input and output": with_columns("input", "output"),
    "text to text": with_columns("prompt", "completion"),
}


def _context_pair(name: str, write: Any) -> Callable[[Messages, str], Row]:
    def made(messages: Messages, rejected: str) -> Row:
        other = (Message("assistant", rejected),)
        row = {name: write(messages[:-1])}
        return row | {"chosen": write(messages[-1:]), "rejected": write(other)}

    return made


def _bare_pair(name: str) -> Callable[[Messages, str], Row]:
    def made(messages: Messages, rejected: str) -> Row:
        row = with_columns(name, "chosen")(messages)
        return row | {"rejected": rejected}

    return made


def _whole_pair(write: Any) -> Callable[[Messages, str], Row]:
    def made(messages: Messages, rejected: str) -> Row:
        other = (*messages[:-1], Message("assistant", rejected))
        return {"prompt": "as published", "chosen": write(messages), "rejected": write(other)}

    return made


PAIRS: dict[str, Callable[[Messages, str], Row]] = {
    **{f"{name} and text": _bare_pair(name) for name in ("prompt", "question", "instruction")},
    "input and text": _bare_pair("input"),
    "prompt and messages": _context_pair("prompt", openai),
    "conversations and turns": _context_pair("conversations", sharegpt),
    "messages in parts": _context_pair("messages", in_parts),
    "whole dialogues": _whole_pair(openai),
    "whole ShareGPT dialogues": _whole_pair(sharegpt),
}
