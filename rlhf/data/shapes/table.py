"""The table of shapes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rlhf.common.errors import SettingsError
from rlhf.data.records import Kind, Record
from rlhf.data.shapes.columns import MESSAGE_KEYS, Columns
from rlhf.data.shapes.dialogues import (
    ANSWERS,
    LABELS,
    answered,
    dialogue_or_prompt,
    goal,
    instances,
    plain_text,
    prompt,
    turns_of_user,
)
from rlhf.data.shapes.pairs import pair
from rlhf.data.shapes.questions import MATERIAL, MESSAGES, QUESTIONS, SYSTEMS
from rlhf.data.shapes.steps import STEPS, solution

_ASKED = (*QUESTIONS, *MATERIAL)
_INSTRUCTION = ("instruction",)


@dataclass(frozen=True)
class Shape:
    """A way to write a row.

    needs: groups of column names; a row of this shape has one of each group
    kind: what its rows are taken for where neither they nor their path tell
    """

    needs: tuple[tuple[str, ...], ...]
    record: Callable[[Columns], Record]
    kind: Kind = "other"

    def fits(self, row: Columns) -> bool:
        """Whether the row has the columns."""
        return all(any(name in row for name in group) for group in self.needs)

    def columns_of(self, row: Columns) -> list[str]:
        """The columns that a fitting row is recognised by, under their known names."""
        return [next(name for name in group if name in row) for group in self.needs]


# The first that fits a row is its shape.
SHAPES = (
    Shape((("chosen",), ("rejected",)), pair),
    Shape((STEPS, ("labels",)), solution),
    Shape((MESSAGES,), dialogue_or_prompt),
    Shape((_INSTRUCTION, ("instances",)), instances, "helpful"),
    Shape((_INSTRUCTION, ANSWERS), answered, "helpful"),
    Shape((("turns",),), turns_of_user, "helpful"),
    Shape((("Goal",),), goal, "harmless"),
    Shape((_ASKED, ANSWERS), answered),
    Shape((_INSTRUCTION,), prompt, "helpful"),
    Shape((QUESTIONS,), prompt),
    Shape((("text",),), plain_text, "plain"),
)

# What `data.columns` can give other names to: columns of rows, and keys of messages.
KNOWN_COLUMNS = tuple(
    dict.fromkeys(
        [
            *("chosen", "rejected", *MESSAGES, *_ASKED, *ANSWERS, *SYSTEMS, "history"),
            *(*STEPS, "labels", "finished", *LABELS, "instances", "turns", "Goal", "text", "kind"),
            "reference",
            *MESSAGE_KEYS,
        ]
    )
)


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse names that no shape reads; raises SettingsError."""
    for known, theirs in columns.items():
        if known not in KNOWN_COLUMNS:
            raise SettingsError(
                f"data.columns.{known}: unknown; it gives the name that the files have, {theirs!r}, "
                f"to one of {', '.join(KNOWN_COLUMNS)}"
            )
