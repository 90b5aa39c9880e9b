"""Demonstrations and prompts."""

from collections.abc import Mapping
from typing import Any

from rlhf.data.records import Dialogue, Message, Messages, PlainText, Prompt
from rlhf.data.rows import BrokenRow
from rlhf.data.shapes.columns import Columns
from rlhf.data.shapes.messages import in_order, read_messages, read_text
from rlhf.data.shapes.questions import awaiting_answer, question

# Names of the column with the answer, the first that a row has.
ANSWERS = ("output", "response", "answer", "completion")
# Values of `label`, as JSON and as the cells of a table have them.
_GOOD, _BAD = ("true", "1", "1.0"), ("false", "0", "0.0")


def dialogue_or_prompt(row: Columns) -> Dialogue | Prompt:
    """`messages` alone: a prompt where they end with the user."""
    messages = in_order(question(row) or (), row)
    if messages[-1].role == "user":
        return Prompt(messages)
    _refuse_bad(row)
    return Dialogue(messages)


def answered(row: Columns) -> Dialogue:
    """A question and its answer, a text or messages."""
    _refuse_bad(row)
    before = awaiting_answer(row)
    messages = in_order(before + answer_messages(row.first(*ANSWERS), row), row)
    if messages[-1].role != "assistant":
        raise BrokenRow("not_ending_with_assistant")
    return Dialogue(messages)


def _refuse_bad(row: Columns) -> None:
    """As in KTO: an answer that people did not want is no demonstration.

    A label that says neither yes nor no is not read.
    """
    label = str(row.peek("label")).strip().lower()
    if label in _BAD:
        raise BrokenRow("labelled_bad")
    if label in _GOOD:
        row.get("label")


def answer_messages(value: Any, row: Columns) -> Messages:
    """An answer: bare text, one message, or a list of them."""
    if isinstance(value, str):
        return (Message("assistant", value),)
    return read_messages(value, row)


def instances(row: Columns) -> Dialogue:
    """An instruction with examples, as in Self-Instruct; the first counts."""
    examples = row.get("instances")
    example = examples[0] if isinstance(examples, list) and examples else None
    if not isinstance(example, Mapping):
        raise BrokenRow("wrong_type", "instances is no list of examples")
    return answered(Columns({"instruction": row.get("instruction"), **example}, row.rules))


def prompt(row: Columns) -> Prompt:
    """A question alone."""
    return Prompt(awaiting_answer(row))


def first_turn(row: Columns) -> Prompt:
    """`turns`, as in MT-Bench: the later ones need answers."""
    turns = row.get("turns")
    first = turns[0] if isinstance(turns, list) and turns else None
    return Prompt((Message("user", read_text(first)),))


def goal(row: Columns) -> Prompt:
    """`Goal`, as in AdvBench."""
    return Prompt((Message("user", read_text(row.get("Goal"))),))


def plain_text(row: Columns) -> PlainText:
    """`text`."""
    return PlainText(read_text(row.get("text")))
