"""Answers in steps, each with a label."""

from typing import Any

from rlhf.data.records import Solution
from rlhf.data.rows import BrokenRow
from rlhf.data.shapes.columns import Columns
from rlhf.data.shapes.messages import read_text
from rlhf.data.shapes.questions import awaiting_answer

# TRL's name is the second.
STEPS = ("steps", "completions")


def solution(row: Columns) -> Solution:
    """`steps` and `labels`, as many, beside a question."""
    messages = awaiting_answer(row)
    texts, labels = row.first(*STEPS), row.get("labels")
    finished = row.get("finished") if "finished" in row else True
    if not (isinstance(texts, list) and isinstance(labels, list) and isinstance(finished, bool)):
        raise BrokenRow("wrong_type", "steps and labels are lists, finished is true or false")
    if len(texts) != len(labels):
        raise BrokenRow("labels_are_not_as_many_as_steps")

    steps = tuple(read_text(text) for text in texts)
    found = Solution(messages, steps, tuple(_label(label) for label in labels), finished)
    if not found.steps:
        raise BrokenRow("no_steps")
    if all(label is None for label in found.labels):
        raise BrokenRow("no_labels")
    return found


def _label(value: Any) -> float | None:
    """From true, false, a number from 0 to 1, or null for a step without a label."""
    if value is None:
        return None
    # nothing else is taken for true or false: not -100, which elsewhere means no label, and no text
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise BrokenRow("not_a_label", repr(value))
    return float(value)
