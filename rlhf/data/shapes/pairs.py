"""Pairs: two answers to the same question, one of which people preferred."""

from typing import Any

from rlhf.data.records import Message, Messages, Pair
from rlhf.data.rows import BrokenRow
from rlhf.data.shapes.columns import Columns
from rlhf.data.shapes.messages import in_order, is_transcript, read_messages, read_transcript
from rlhf.data.shapes.questions import question, system_and_history


def pair(row: Columns) -> Pair:
    """`chosen` and `rejected`: whole dialogues, or answers beside the question that both share.

    Dialogues that part before their last answers, as some of HH-RLHF do, are a pair of the answers
    where they part; what follows there is left out.
    """
    before = question(row)
    chosen = _side(row.get("chosen"), before, row)
    rejected = _side(row.get("rejected"), before, row)
    last = _last_of_pair(chosen, rejected)
    if last + 1 < len(chosen):
        row.turn_changes.add("later_turns_left_out")
    return Pair(chosen[:last], chosen[last].content, rejected[last].content)


def _last_of_pair(chosen: Messages, rejected: Messages) -> int:
    """The position of the answers that are compared, behind the turns that both sides share.

    Raises BrokenRow where there are none.
    """
    # a side that is longer goes on with other turns, or has a `Human:` within an answer: nobody can tell
    if len(chosen) != len(rejected):
        lengths = f"{len(chosen)} turns of chosen, {len(rejected)} of rejected"
        raise BrokenRow("prompts_differ", lengths)
    parted = [place for place, turn in enumerate(chosen) if turn != rejected[place]]
    first = parted[0] if parted else len(chosen) - 1
    if chosen[first].role != "assistant":
        raise BrokenRow("prompts_differ", f"the sides part in turn {first + 1}, which is no answer")
    return first


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
