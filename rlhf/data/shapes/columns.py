"""The columns of a row under the names that we know, and what became of the others."""

import math
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from typing import Any

from rlhf.data.rules import Rules
from rlhf.data.shapes.labels import verdict

RawRow = Mapping[str, Any]
# What `data.columns` can name within a message.
MESSAGE_KEYS = ("role", "content")


class Columns:
    """One row, or one message of it. A column that is null is as absent, and so is NaN.

    It remembers which columns were read: what no shape asks for is lost, and is told.
    """

    def __init__(self, row: RawRow, rules: Rules, *, is_message: bool = False) -> None:
        """Put columns that the settings map under their known names."""
        self.rules = rules
        # what became of turns and of numbers, by name
        self.changes: set[str] = set()
        self.mapped: set[str] = set()
        self._read: set[str] = set()
        # the column that was read last, where something is wrong with it
        self.last_read = ""
        self._unread_within: set[str] = set()
        self._values = {name: value for name, value in row.items() if not is_missing(value)}
        # as the file calls them
        self.own_names = sorted(self._values)
        self._classes = {} if is_message else dict(rules.class_labels)
        self._rename(
            {known: at for known, at in rules.columns if (known in MESSAGE_KEYS) == is_message}
        )

    def _rename(self, theirs: Mapping[str, str]) -> None:
        """Put the values that are called `theirs` under the known names; two may change places."""
        values = {known: _at(self._values, path) for known, path in theirs.items()}
        renamed = {known: value for known, value in values.items() if not is_missing(value)}
        paths = {theirs[known] for known in renamed}
        for path in paths:
            if path in self._values:
                del self._values[path]
            elif (column := path.partition(".")[0]) in self._values:
                # a column that was gone into: what else it holds is told
                around = _leaves(column, self._values.pop(column))
                self._unread_within |= {leaf for leaf in around if not _leads_to(leaf, paths)}
        # what had the known name itself is lost
        self._unread_within |= renamed.keys() & self._values.keys()
        self._values |= renamed
        self.mapped |= renamed.keys()

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> Any:
        """The value of a column, None where it is absent."""
        self._read.add(name)
        self.last_read = name
        return self._values.get(name)

    def peek(self, name: str) -> Any:
        """The value of a column of which it is not known yet whether it can be read."""
        return self._values.get(name)

    def leave(self, *names: str) -> None:
        """Columns were read and turned out to be of no use: they count as not read."""
        self._read -= set(names)

    def holds(self, *names: str) -> bool:
        """Whether one of these columns holds something."""
        return any(not is_empty(self._values.get(name)) for name in names)

    def first_name(self, *names: str) -> str | None:
        """The first of these columns that holds something, else the first that the row has."""
        there = [name for name in names if name in self._values]
        return next((name for name in there if self.holds(name)), there[0] if there else None)

    def first(self, *names: str) -> Any:
        """The value of the column that `first_name` gives, None where the row has none."""
        name = self.first_name(*names)
        return None if name is None else self.get(name)

    def first_text(self, *names: str) -> Any:
        """As `first`; a number is its text, which is counted."""
        return self._spelt(self.first(*names))

    def text(self, name: str) -> Any:
        """As `get`; a number is its text, which is counted."""
        return self._spelt(self.get(name))

    def _spelt(self, value: Any) -> Any:
        # true is no 1, and no word either
        is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        if is_number and math.isfinite(value):
            self.changes.add("number_as_text")
            return str(value)
        return value

    def message(self, item: RawRow) -> "Columns":
        """A message that stands in a column."""
        return Columns(item, self.rules, is_message=True)

    def within(self, item: RawRow) -> "Columns":
        """A row that stands in a column."""
        return Columns(item, self.rules)

    def lost_in(self, item: "Columns", name: str = "message") -> None:
        """Remember what was not read of a message or a row that stands in a column."""
        self._unread_within |= {f"{name}.{column}" for column in item.unread()}
        self.changes |= item.changes
        self.mapped |= item.mapped

    def unread(self) -> list[str]:
        """The columns that hold something and were not read, those of messages too."""
        unread = {name for name in self._values if self.holds(name)} - self._read
        told = {
            f"{name} (classes: {self._classes[name]})" for name in unread & self._classes.keys()
        }
        return sorted((unread - self._classes.keys()) | told | self._unread_within)

    def says(self, name: str) -> bool | None:
        """Whether a column says yes or no; None where it says neither, and is not read."""
        said = None if name in self._classes else verdict(self._values.get(name))
        if said is not None:
            self._read.add(name)
        return said


def spelt_otherwise(columns: Mapping[str, str], names: Collection[str]) -> str:
    """Which names in `data.columns` the columns of a file have but for capitals; "" for none."""
    by_letters = {name.casefold(): name for name in names}
    return "; ".join(
        f"data.columns.{known}: {theirs!r} is written {by_letters[theirs.casefold()]!r} here"
        for known, theirs in columns.items()
        if theirs not in names and theirs.casefold() in by_letters
    )


def is_missing(value: Any) -> bool:
    """Null, or what libraries of tables write for it: NaN, and an object all of whose values are null."""
    if isinstance(value, Mapping):
        return bool(value) and all(is_missing(item) for item in value.values())
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def is_empty(value: Any) -> bool:
    """Nothing, in a column that is there: an empty cell, list or object."""
    return value is None or value in ("", [], {})


def _leaves(path: str, value: Any) -> Iterator[str]:
    """The places of all that a value holds, an object by its keys."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}", item)
    elif not (is_missing(value) or is_empty(value)):
        yield path


def _leads_to(leaf: str, paths: Collection[str]) -> bool:
    """Whether a place is one of those paths, or within it."""
    return any(leaf == path or leaf.startswith(f"{path}.") for path in paths)


def _at(row: RawRow, path: str) -> Any:
    """The value of a column, or of one within another (`data.question`)."""
    if path in row:
        return row[path]
    node: Any = row
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
