"""Whether a label column of a file says yes or no: one that names classes may have a 0 or a 1 too."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

from rlhf.common.errors import DataError
from rlhf.data.read import read_rows
from rlhf.data.rows import BrokenRow
from rlhf.data.rules import Rules
from rlhf.data.shapes.columns import Columns, RawRow, is_empty
from rlhf.data.shapes.labels import LABELS, verdict

# Values that are told, and characters of each.
_TOLD, _LONGEST = 6, 20


class FileLabels:
    """The rules for the rows of one file. A file with labels is read once more, to see all of them."""

    def __init__(self, path: Path, rules: Rules) -> None:
        self._path, self._rules = path, rules

    def rules_for(self, row: RawRow) -> Rules:
        """The rules, with the label columns that are not to be read."""
        columns = Columns(row, self._rules)
        return self._narrowed if any(name in columns for name in LABELS) else self._rules

    @cached_property
    def _narrowed(self) -> Rules:
        told: dict[str, dict[str, None]] = {name: {} for name in LABELS}
        classes = set()
        try:
            for _, row, _ in read_rows(self._path):
                if isinstance(row, BrokenRow):
                    continue
                columns = Columns(row, self._rules)
                for name in LABELS:
                    value = columns.peek(name)
                    if value is None or is_empty(value):
                        continue
                    if verdict(value) is None:
                        classes.add(name)
                    if len(told[name]) < _TOLD:
                        told[name].setdefault(str(value)[:_LONGEST])
        except DataError:
            # who reads its rows tells
            pass
        unread = [(name, ", ".join(told[name])) for name in LABELS if name in classes]
        return replace(self._rules, class_labels=tuple(unread))
