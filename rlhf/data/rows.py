"""Rows and files that cannot be used."""

from pathlib import Path
from typing import Any, NamedTuple

from rlhf.common.errors import DataError
from rlhf.data.records import PublishedSplit


class BrokenRow(Exception):
    """A row that cannot be used.

    reason: one word, the same for all rows with that fault
    detail: what a person needs to mend it, "" where the reason says it all
    mapped: known names that `data.columns` gave to its columns all the same
    """

    def __init__(self, reason: str, detail: str = "", mapped: frozenset[str] = frozenset()) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.mapped = reason, detail, mapped


class UnreadableFile(DataError):
    """A file of which no row can be read; the others beside it can be used all the same."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.problem = problem


RowOrFault = dict[str, Any] | BrokenRow


class ReadRow(NamedTuple):
    """A row as a file has it; split: the published one that the file itself puts it in."""

    line: int
    content: RowOrFault
    split: PublishedSplit = None
