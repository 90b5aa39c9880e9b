"""Pairs: two answers to the same question, one of which people preferred."""

from typing import Any

from rlhf.data.records import Message, Messages, Pair
from rlhf.data.rows import BrokenRow
from rlhf.data.shapes.columns import Columns
from rlhf.data.shapes.messages import in_order, is_transcript, read_messages, read_transcript
from rlhf.data.shapes.questions import (
    MATERIAL,
    MESSAGES,
    QUESTIONS,
    SYSTEMS,
    question,
    system_and_history,
)


def pair(row: Columns) -> Pair:
    """`chosen` and `rejected`: whole dialogues, or answers beside the question that both share.

    Dialogues that part before their last answers, as some of HH-RLHF do, are a pair of the answers
    where they part; what follows there is left out.
    """
    before = question(row)
    chosen = _side(row.text("chosen"), before, row)
    rejected = _side(row.text("rejected"), before, row)
    last = _last_of_pair(chosen, rejected)
    if last + 1 < len(chosen):
        row.changes.add("later_turns_left_out")
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
    else:
        messages = _behind(system_and_history(row) if before is None else before, messages, row)
    if messages and messages[-1].role != "assistant":
        raise BrokenRow("not_ending_with_assistant")
    return in_order(messages, row)


def _behind(before: Messages, dialogue: Messages, row: Columns) -> Messages:
    """A dialogue behind what its row says beside it, of which nothing is said twice.

    Where the question beside it is another one, its columns are not read, which is told.
    """
    own_system, own = _parted(dialogue)
    system, turns = _parted(before)
    missing = _not_yet_said(turns, own)
    if missing is None:
        row.leave(*MESSAGES, *QUESTIONS, *MATERIAL)
        system, history = _parted(system_and_history(row))
        # earlier exchanges lead to any question
        rest = _not_yet_said(history, own)
        missing = history if rest is None else rest
    if system and own_system and not _alike(system, own_system):
        row.leave(*SYSTEMS, *MESSAGES, *QUESTIONS)
    return (own_system or system) + missing + own


def _not_yet_said(turns: Messages, dialogue: Messages) -> Messages | None:
    """Those of some turns that come before the dialogue; None where they do not lead to it."""
    places = range(len(dialogue) - len(turns) + 1)
    if any(_alike(turns, dialogue[place : place + len(turns)]) for place in places):
        return ()
    for count in range(len(turns), 0, -1):
        if _alike(turns[-count:], dialogue[:count]):
            return turns[:-count]
    return None


def _parted(messages: Messages) -> tuple[Messages, Messages]:
    """The system message, if there is one, and the turns."""
    count = 1 if messages and messages[0].role == "system" else 0
    return messages[:count], messages[count:]


def _alike(messages: Messages, others: Messages) -> bool:
    """Whether they are the same, blanks around them aside."""
    return [(m.role, m.content.strip()) for m in messages] == [
        (m.role, m.content.strip()) for m in others
    ]


def _own_messages(value: Any, row: Columns, *, is_bare: bool) -> Messages:
    """The messages that stand in the column itself.

    is_bare: whether text that does not begin as a transcript is an answer
    """
    if not isinstance(value, str):
        return read_messages(value, row)
    if is_bare and not is_transcript(value):
        return (Message("assistant", value),)
    return read_transcript(value)
