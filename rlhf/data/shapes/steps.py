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
    finished = row.get("finished") if "finished" in row else True
    if not isinstance(finished, bool):
        raise BrokenRow("wrong_type", "neither true nor false")
    # each behind its reading, which a message names
    steps = tuple(read_text(text) for text in _list(row.first(*STEPS)))
    labels = _list(row.get("labels"))
    if len(steps) != len(labels):
        raise BrokenRow("labels_are_not_as_many_as_steps")

    found = Solution(messages, steps, tuple(_label(label) for label in labels), finished)
    if not found.steps:
        raise BrokenRow("no_steps")
    if all(label is None for label in found.labels):
        raise BrokenRow("no_labels")
    return found


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BrokenRow("wrong_type", f"{type(value).__name__} in place of a list")
    return value


def _label(value: Any) -> float | None:
    """From true, false, a number from 0 to 1, or null for a step without a label."""
    if value is None:
        return None
    # nothing else is taken for true or false: not -100, which elsewhere means no label, and no text
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise BrokenRow("not_a_label", repr(value))
    return float(value)
