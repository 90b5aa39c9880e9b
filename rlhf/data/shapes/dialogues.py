"""Demonstrations and prompts."""

from collections.abc import Mapping
from typing import Any

from rlhf.data.records import Dialogue, Message, Messages, PlainText, Prompt
from rlhf.data.rows import BrokenRow
from rlhf.data.shapes.columns import Columns
from rlhf.data.shapes.labels import LABELS
from rlhf.data.shapes.messages import in_order, read_messages, read_text
from rlhf.data.shapes.questions import awaiting_answer, question, system_and_history

# Names of the column with the answer, the first that a row has.
ANSWERS = ("output", "response", "answer", "completion")


def dialogue_or_prompt(row: Columns) -> Dialogue | Prompt:
    """`messages`: where they end with the user a prompt, or a question whose answer stands beside it."""
    messages = in_order(question(row) or (), row)
    if messages[-1].role == "user":
        return answered(row) if row.holds(*ANSWERS) else Prompt(messages)
    _refuse_bad(row)
    return _demonstration(messages)


def answered(row: Columns) -> Dialogue:
    """A question and its answer, a text or messages."""
    _refuse_bad(row)
    before = awaiting_answer(row)
    messages = in_order(before + answer_messages(row.first_text(*ANSWERS), row), row)
    if messages[-1].role != "assistant":
        raise BrokenRow("not_ending_with_assistant")
    return _demonstration(messages)


def _refuse_bad(row: Columns) -> None:
    """As in KTO: an answer that people did not want is no demonstration."""
    if any(row.says(name) is False for name in LABELS):
        raise BrokenRow("labelled_bad")


def _demonstration(messages: Messages) -> Dialogue:
    """A dialogue whose last answer is learnt."""
    if not messages[-1].is_target:
        raise BrokenRow("answer_without_weight")
    return Dialogue(messages)


def answer_messages(value: Any, row: Columns) -> Messages:
    """An answer: bare text, one message, or a list of them."""
    if isinstance(value, str):
        return (Message("assistant", value),)
    return read_messages(value, row)


def instances(row: Columns) -> Dialogue:
    """An instruction with examples, as in Self-Instruct; the first counts."""
    instruction, examples = row.get("instruction"), row.get("instances")
    example = examples[0] if isinstance(examples, list) and examples else None
    if not isinstance(example, Mapping):
        raise BrokenRow("wrong_type", "no list of examples")
    if len(examples) > 1:
        row.changes.add("later_examples_left_out")
    one = row.within({"instruction": instruction, **example})
    dialogue = answered(one)
    row.lost_in(one, "instances")
    return dialogue


def prompt(row: Columns) -> Prompt:
    """A question alone, or the turns of a user."""
    turns = row.peek("prompt")
    if isinstance(turns, list) and turns and all(isinstance(turn, str) for turn in turns):
        return _first_turn(row, "prompt")
    return Prompt(awaiting_answer(row))


def turns_of_user(row: Columns) -> Prompt:
    """`turns`, as in MT-Bench."""
    return _first_turn(row, "turns")


def _first_turn(row: Columns, name: str) -> Prompt:
    """The first of several turns of a user: the later ones need answers, and are counted."""
    turns = row.get(name)
    if not isinstance(turns, list) or not turns:
        raise BrokenRow("wrong_type", "no list of turns")
    if len(turns) > 1:
        row.changes.add("later_turns_left_out")
    asked = Message("user", read_text(turns[0]))
    return Prompt(in_order((*system_and_history(row), asked), row))


def goal(row: Columns) -> Prompt:
    """`Goal`, as in AdvBench."""
    return Prompt((Message("user", read_text(row.text("Goal"))),))


def plain_text(row: Columns) -> PlainText:
    """`text`."""
    return PlainText(read_text(row.text("text")))
