"""Pairs: two answers to the same question, one of which people preferred."""

from typing import Any

from rlhf.data.records import Message, Messages, Pair
from rlhf.data.rows import BrokenRow
from rlhf.data.shapes.columns import Columns
from rlhf.data.shapes.messages import in_order, is_transcript, read_messages, read_transcript
from rlhf.data.shapes.questions import question, system_and_history


def pair(row: Columns) -> Pair:
    """`chosen` and `rejected`: whole dialogues, or answers beside the question that both share."""
    before = question(row)
    chosen = _side(row.get("chosen"), before, row)
    rejected = _side(row.get("rejected"), before, row)
    if chosen[:-1] != rejected[:-1]:
        raise BrokenRow("prompts_differ")
    return Pair(chosen[:-1], chosen[-1].content, rejected[-1].content)


def _side(value: Any, before: Messages | None, row: Columns) -> Messages:
    """One side as a whole dialogue, which ends with the assistant."""
    messages = _own_messages(value, row, is_bare=before is not None)
    if messages and messages[0].role == "assistant":
        # an answer alone
        messages = (before or ()) + messages
    elif not messages or messages[0].role != "system":
        messages = system_and_history(row) + messages
    if messages and messages[-1].role != "assistant":
        raise BrokenRow("not_ending_with_assistant")
    return in_order(messages, row)


def _own_messages(value: Any, row: Columns, *, is_bare: bool) -> Messages:
    """The messages that stand in the column itself.

    is_bare: whether text that does not begin as a transcript is an answer
    """
    if not isinstance(value, str):
        return read_messages(value, row)
    if is_bare and not is_transcript(value):
        return (Message("assistant", value),)
    return read_transcript(value)
