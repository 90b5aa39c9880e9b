"""One assignment of opening turns to splits, over all tables at once, so that nothing trained on is tested on.

Data sets of dialogues reuse their first turns, so the unit that is assigned is the opening: the first user message.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rlhf.common.errors import SettingsError
from rlhf.core.seeds import derive_seed
from rlhf.data.ledger import Ledger, Place
from rlhf.data.records import Messages, PlainText, Record, Row, as_list
from rlhf.data.tables import KINDS, SPLITS
from rlhf.settings.schema import Data


@dataclass(frozen=True)
class Candidate:
    """A row with its split, before limits and tokens; `id` is a hash of the record, `opening` "" for plain text."""

    id: str
    split: str
    opening: str
    row: Row

    @property
    def place(self) -> Place:
        """Where the row stands."""
        return Place(self.row.use, self.row.file, self.row.line)


@dataclass(frozen=True)
class Assignment:
    """Which openings are tested on, and the seed and fractions that place all others."""

    test_openings: frozenset[str]
    seed: int
    data: Data

    def split_of(self, opening: str) -> str:
        """Give train, validation or test."""
        if opening in self.test_openings:
            return "test"
        start = self.data.test_fraction
        return (
            "validation"
            if start <= uniform(self.seed, "split", opening) < start + self.data.validation_fraction
            else "train"
        )

    def is_gold(self, opening: str) -> bool:
        """Tell whether a training opening's pairs are set aside for the gold model."""
        return uniform(self.seed, "gold", opening) < self.data.gold_fraction


def uniform(seed: int, name: str, text: str) -> float:
    """Give a number in [0, 1) that depends on seed, name and text alone."""
    return derive_seed(seed, name, text) / 2**63


def opening_of(messages: Messages) -> str:
    """Hash the first user message, case, punctuation and blanks aside; 16 hex digits."""
    first = next(message.content for message in messages if message.role == "user")
    plain = re.sub(r"[\W_]+", " ", first.casefold()).strip()
    return hashlib.sha256((plain or first).encode()).hexdigest()[:16]


def assign(rows: Mapping[str, Sequence[Row]], data: Data, seed: int) -> Assignment:
    """Decide which openings are tested on.

    These are: all of `evaluation`, all of published test files, and `test_fraction` of the openings in sft and
    preferences sources that have no test file of their own.
    """
    evaluation, trained = rows["evaluation"], [*rows["sft"], *rows["preferences"]]
    own_test = _with_test_file([*trained, *evaluation])
    test = {_opening(row) for row in trained if row.published == "test"}
    test |= {
        _opening(row)
        for row in evaluation
        if row.published == "test" or (row.use, row.address) not in own_test
    }
    for row in trained:
        if (row.use, row.address) not in own_test and uniform(
            seed, "split", _opening(row)
        ) < data.test_fraction:
            test.add(_opening(row))
    return Assignment(frozenset(test), seed, data)


def candidates(
    table: str, rows: Mapping[str, Sequence[Row]], assignment: Assignment, ledger: Ledger
) -> list[Candidate]:
    """Give the rows of a table with their splits, duplicates dropped, in an order that depends on seed and rows alone.

    Dropped and told to the ledger: training rows whose opening is tested on, rows of published splits that the use has
    no place for.
    """
    wanted = [*rows["prompts"], *rows["evaluation"]] if table == "prompts" else rows[table]
    own_test = _with_test_file(wanted)
    found: dict[str, Candidate] = {}
    for row in wanted:
        place, name = Place(row.use, row.file, row.line), identity(row.record)
        opening = "" if table == "pretrain" else _opening(row)
        split = (
            _text_split(assignment, name) if table == "pretrain" else assignment.split_of(opening)
        )
        trains_only = row.published != "test" and (row.use, row.address) in own_test
        if (trains_only and row.use == "evaluation") or (
            row.use == "prompts" and row.published == "test"
        ):
            ledger.drop(place, "published_split_not_used")
        elif split == "test" and (trains_only or row.use == "prompts"):
            ledger.drop(place, "opening_in_test")
        elif name in found:
            ledger.drop(place, "duplicate")
        else:
            if table == "preferences" and split == "train" and assignment.is_gold(opening):
                split = "gold"
            found[name] = Candidate(name, split, opening, row)
    return sorted(
        found.values(), key=lambda candidate: uniform(assignment.seed, table, candidate.id)
    )


def identity(record: Record) -> str:
    """Hash a record's content; 16 hex digits."""
    if isinstance(record, PlainText):
        content: object = record.text
    else:
        content = [
            as_list(record.messages),
            getattr(record, "chosen", ""),
            getattr(record, "rejected", ""),
        ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def check_limits(limits: Mapping[str, int]) -> None:
    """Refuse limits of tables, splits or kinds that do not exist; raises SettingsError."""
    for key in limits:
        table, *rest = key.split(".")
        if (
            len(rest) not in (1, 2)
            or rest[0] not in SPLITS.get(table, ())
            or (len(rest) == 2 and rest[1] not in KINDS)
        ):
            known = ", ".join(
                f"{name}.{split}" for name, splits in SPLITS.items() for split in splits
            )
            raise SettingsError(
                f"data.limits.{key}: unknown; known: {known}, each also with .{', .'.join(KINDS[:3])}"
            )


def _opening(row: Row) -> str:
    return "" if isinstance(row.record, PlainText) else opening_of(row.record.messages)


def _text_split(assignment: Assignment, name: str) -> str:
    return (
        "validation"
        if uniform(assignment.seed, "split", name) < assignment.data.validation_fraction
        else "train"
    )


def _with_test_file(rows: Iterable[Row]) -> set[tuple[str, int]]:
    return {(row.use, row.address) for row in rows if row.published == "test"}
