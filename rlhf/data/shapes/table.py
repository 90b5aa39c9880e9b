"""The table of shapes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rlhf.common.errors import SettingsError
from rlhf.data.records import Kind, Record
from rlhf.data.shapes.columns import MESSAGE_KEYS, Columns
from rlhf.data.shapes.dialogues import (
    ANSWERS,
    answered,
    dialogue_or_prompt,
    goal,
    instances,
    plain_text,
    prompt,
    turns_of_user,
)
from rlhf.data.shapes.labels import LABELS
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
    asks: whether it holds a question alone
    """

    needs: tuple[tuple[str, ...], ...]
    record: Callable[[Columns], Record]
    kind: Kind = "other"
    asks: bool = False

    def fits(self, row: Columns) -> bool:
        """Whether the row has the columns."""
        return all(any(name in row for name in group) for group in self.needs)

    def is_filled(self, row: Columns) -> bool:
        """Whether the row has the columns, and something in them."""
        return all(row.holds(*group) for group in self.needs)

    def columns_of(self, row: Columns) -> list[str]:
        """The columns that a fitting row is recognised by, under their known names."""
        return [name for group in self.needs if (name := row.first_name(*group)) is not None]

    def says_more_than(self, other: "Shape", row: Columns) -> bool:
        """Whether the row holds this shape, and nothing of the other one that this one would not read."""
        names = {name for group in self.needs for name in group}
        left_out = [name for group in other.needs for name in group if name not in names]
        # the question of a row whose answer is empty is no row of its own
        is_part = self.asks and len(other.needs) > 1
        return self.is_filled(row) and not is_part and not row.holds(*left_out)


# The first that fits a row is its shape.
SHAPES = (
    Shape((("chosen",), ("rejected",)), pair),
    Shape((STEPS, ("labels",)), solution),
    Shape((MESSAGES,), dialogue_or_prompt),
    Shape((_INSTRUCTION, ("instances",)), instances, "helpful"),
    Shape((_INSTRUCTION, ANSWERS), answered, "helpful"),
    Shape((("Goal",),), goal, "harmless", asks=True),
    Shape((_ASKED, ANSWERS), answered),
    Shape((_INSTRUCTION,), prompt, "helpful", asks=True),
    Shape((QUESTIONS,), prompt, asks=True),
    # behind the questions: a number of turns stands beside some
    Shape((("turns",),), turns_of_user, "helpful", asks=True),
    Shape((("text",),), plain_text, "plain"),
)


def shape_of(row: Columns) -> Shape | None:
    """The first shape that fits; where its columns are empty, the first other one that holds more."""
    first = next((shape for shape in SHAPES if shape.fits(row)), None)
    if first is None or first.is_filled(row):
        return first
    return next((shape for shape in SHAPES if shape.says_more_than(first, row)), first)


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
    """Refuse names that no shape reads, and two names for one column; raises SettingsError."""
    first: dict[tuple[bool, str], str] = {}
    for known, theirs in columns.items():
        # the key of a message may be called as a column is
        other = first.setdefault((known in MESSAGE_KEYS, theirs), known)
        if other != known:
            raise SettingsError(
                f"data.columns.{other} and data.columns.{known}: both name {theirs!r}; a column has "
                "one known name"
            )
        if known not in KNOWN_COLUMNS:
            raise SettingsError(
                f"data.columns.{known}: unknown; it gives the name that the files have, {theirs!r}, "
                f"to one of {', '.join(KNOWN_COLUMNS)}"
            )
