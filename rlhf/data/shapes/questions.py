"""What is asked: the messages of a row that stand before its answer, whatever their columns."""

from typing import Any

from rlhf.data.records import Message, Messages
from rlhf.data.rows import BrokenRow
from rlhf.data.shapes.columns import Columns
from rlhf.data.shapes.messages import (
    from_json,
    in_order,
    is_transcript,
    read_dialogue,
    read_messages,
    read_text,
    read_transcript,
)

MESSAGES = ("messages", "conversations", "conversation")
# Names of the column with the question, the first that a row has; and of what it speaks about.
QUESTIONS = ("instruction", "prompt", "question", "query")
MATERIAL = ("input", "context")
SYSTEMS = ("system", "system_prompt")


def system_and_history(row: Columns) -> Messages:
    """What stands in columns of its own before the first question."""
    text = read_text(row.first_text(*SYSTEMS) or "")
    system = (Message("system", text),) if text.strip() else ()
    return system + _history(row)


def _history(row: Columns) -> Messages:
    """Earlier exchanges: pairs of question and answer, or messages."""
    exchanges = row.get("history") or []
    if isinstance(exchanges, str):
        exchanges = from_json(exchanges)
    if not isinstance(exchanges, list):
        raise BrokenRow("wrong_type", f"{type(exchanges).__name__} in place of a list")
    if not all(isinstance(exchange, list) for exchange in exchanges):
        return read_messages(exchanges, row)
    if not all(len(exchange) == 2 for exchange in exchanges):
        raise BrokenRow("wrong_type", "not in pairs of question and answer")
    messages: list[Message] = []
    for asked, answer in exchanges:
        messages += [Message("user", read_text(asked)), Message("assistant", read_text(answer))]
    return tuple(messages)


def question(row: Columns) -> Messages | None:
    """The messages that a row asks with, system and history in front; None without a question."""
    # an empty list says nothing where a column of text does
    is_text = row.holds(*QUESTIONS, *MATERIAL) and not row.holds(*MESSAGES)
    messages = None if is_text else row.first(*MESSAGES)
    asked = read_dialogue(messages, row) if messages is not None else _asked(row)
    if asked is None:
        return None
    before = system_and_history(row)
    return before + (asked[1:] if _begins_alike(before, asked) else asked)


def _begins_alike(before: Messages, asked: Messages) -> bool:
    """Whether a system message stands in a column of its own, and once more before the question."""
    if not before or not asked or {before[0].role, asked[0].role} != {"system"}:
        return False
    return before[0].content.strip() == asked[0].content.strip()


def _asked(row: Columns) -> Messages | None:
    value = row.first_text(*QUESTIONS)
    if value is not None and not _is_bare_text(value):
        return prompt_messages(value, row)
    written = [] if value is None else [value]
    for name in MATERIAL:
        if (text := row.text(name)) is not None:
            written.append(read_text(text))
    if not written:
        return None
    said = [text for text in written if text.strip()]
    return (Message("user", "\n\n".join(said)),)


def _is_bare_text(value: Any) -> bool:
    return isinstance(value, str) and not is_transcript(value, stripped=True)


def prompt_messages(value: Any, row: Columns) -> Messages:
    """From a list of messages, a transcript with an open "Assistant:", or a user's bare text."""
    if not isinstance(value, str):
        return read_messages(value, row)
    if not is_transcript(value, stripped=True):
        return (Message("user", value),)
    # an open "Assistant:" is a turn without content
    messages = read_transcript(value)
    last = messages[-1]
    is_open = last.role == "assistant" and not last.content.strip()
    return messages[:-1] if is_open else messages


def awaiting_answer(row: Columns) -> Messages:
    """The question of a row that holds its answer in another column; it ends with the user."""
    messages = question(row)
    if messages is None:
        raise BrokenRow("no_question", f"columns {', '.join(row.own_names)}")
    messages = in_order(messages, row)
    if messages[-1].role != "user":
        raise BrokenRow("not_ending_with_user")
    return messages
