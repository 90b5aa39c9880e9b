"""The columns of a row under the names that we know, and what became of the others."""

from collections.abc import Mapping
from typing import Any

from rlhf.data.rules import Rules

RawRow = Mapping[str, Any]
# What `data.columns` can name within a message.
MESSAGE_KEYS = ("role", "content")


class Columns:
    """One row, or one message of it. A column that is null is as absent.

    It remembers which columns were read: what no shape asks for is lost, and is told.
    """

    def __init__(self, row: RawRow, rules: Rules, *, is_message: bool = False) -> None:
        """Put columns that the settings map under their known names."""
        self.rules = rules
        # what became of turns, by name
        self.turn_changes: set[str] = set()
        self.mapped: set[str] = set()
        self._read: set[str] = set()
        self._unread_within: set[str] = set()
        self._values = {name: value for name, value in row.items() if value is not None}
        self._rename(
            {known: at for known, at in rules.columns if (known in MESSAGE_KEYS) == is_message}
        )

    def _rename(self, theirs: Mapping[str, str]) -> None:
        """Put the values that are called `theirs` under the known names; two may change places."""
        values = {known: _at(self._values, path) for known, path in theirs.items()}
        renamed = {known: value for known, value in values.items() if value is not None}
        for known in renamed:
            self._values.pop(theirs[known], None)
        # what had the known name itself is lost
        self._unread_within |= renamed.keys() & self._values.keys()
        self._values |= renamed
        self.mapped |= renamed.keys()

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> Any:
        """The value of a column, None where it is absent."""
        self._read.add(name)
        return self._values.get(name)

    def peek(self, name: str) -> Any:
        """The value of a column of which it is not known yet whether it can be read."""
        return self._values.get(name)

    def leave(self, *names: str) -> None:
        """Columns were read and turned out to be of no use: they count as not read."""
        self._read -= set(names)

    def first(self, *names: str) -> Any:
        """The value of the first of these columns that the row has, None where it has none."""
        return next((self.get(name) for name in names if name in self._values), None)

    def message(self, item: RawRow) -> "Columns":
        """A message that stands in a column."""
        return Columns(item, self.rules, is_message=True)

    def lost_in(self, message: "Columns") -> None:
        """Remember what was not read of a message."""
        self._unread_within |= {f"message.{name}" for name in message.unread()}
        self.mapped |= message.mapped

    def names(self) -> list[str]:
        """The columns of the row."""
        return sorted(self._values)

    def unread(self) -> list[str]:
        """The columns that hold something and were not read, those of messages too."""
        unread = {name for name, value in self._values.items() if value not in ("", [], {})}
        return sorted((unread - self._read) | self._unread_within)


def _at(row: RawRow, path: str) -> Any:
    """The value of a column, or of one within another (`data.question`)."""
    if path in row:
        return row[path]
    node: Any = row
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
