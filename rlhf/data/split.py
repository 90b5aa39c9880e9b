"""One assignment of openings to splits, over all tables at once.

Nothing that is trained on is tested on. Data sets of dialogues reuse their first turns, so the unit
that is assigned is the opening: the first user message.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from rlhf.common.errors import SettingsError
from rlhf.core.seeds import derive_seed
from rlhf.data.ledger import Ledger
from rlhf.data.records import (
    Messages,
    PlainText,
    Record,
    Row,
    Solution,
    as_list,
)
from rlhf.data.tables import KINDS, SPLITS
from rlhf.settings.schema import Data

# A source: a use and the index of one of its addresses.
SourceKey = tuple[str, int]


@dataclass(frozen=True)
class Candidate:
    """A row with its split, before limits and tokens.

    id: a hash of the record
    opening: a hash of the first user message, "" for plain text
    """

    id: str
    split: str
    opening: str
    row: Row


@dataclass(frozen=True)
class SplitAssignment:
    """Which openings and which texts are held out, and which openings are the gold model's.

    All others are trained on.
    """

    test_openings: frozenset[str]
    validation_openings: frozenset[str]
    gold_openings: frozenset[str]
    validation_texts: frozenset[str]
    seed: int
    data: Data

    def split_of(self, opening: str) -> str:
        """Train, validation or test."""
        if opening in self.test_openings:
            return "test"
        return "validation" if opening in self.validation_openings else "train"

    def split_of_text(self, text_id: str) -> str:
        """Train or validation, for plain text."""
        return "validation" if text_id in self.validation_texts else "train"

    def is_gold(self, opening: str) -> bool:
        """Whether a training opening's pairs are set aside for the gold model."""
        return opening in self.gold_openings


def uniform(seed: int, name: str, text: str) -> float:
    """A number in [0, 1) that depends on seed, name and text alone."""
    return derive_seed(seed, name, text) / 2**63


def opening_of(messages: Messages) -> str:
    """Hash the first user message, case, punctuation and blanks aside; 16 hex digits."""
    # a system message may stand before it
    first = next(message.content for message in messages if message.role == "user")
    plain = re.sub(r"[\W_]+", " ", first.casefold()).strip()
    # a message of punctuation alone would have nothing left
    return hashlib.sha256((plain or first).encode()).hexdigest()[:16]


def candidates(
    table: str, rows: Mapping[str, Sequence[Row]], assignment: SplitAssignment, ledger: Ledger
) -> list[Candidate]:
    """The rows of a table with their splits, in an order that depends on seed and rows alone.

    Dropped and counted in the ledger: duplicates, training rows whose opening is tested on, and
    rows of published splits that the use has no place for.
    """
    table_rows = [*rows["prompts"], *rows["evaluation"]] if table == "prompts" else rows[table]
    with_test_file = sources_with("test", table_rows)

    by_id: dict[str, Candidate] = {}
    for row in table_rows:
        candidate = _candidate(table, row, assignment)
        reason = _drop_reason(candidate, has_test_file=source_of(row) in with_test_file)
        # of rows with the same content the first stays
        if reason is None and candidate.id in by_id:
            reason = "duplicate"

        if reason is None:
            by_id[candidate.id] = candidate
        else:
            ledger.drop(row.location, reason)

    chosen = list(by_id.values())
    if assignment.data.weights:
        chosen = [one for candidate in chosen for one in _weighted(candidate, assignment, ledger)]
    # an order that files do not decide: limits keep the first rows
    return sorted(chosen, key=lambda candidate: uniform(assignment.seed, table, candidate.id))


def _weighted(
    candidate: Candidate, assignment: SplitAssignment, ledger: Ledger
) -> Iterator[Candidate]:
    """A training row as many times as `data.weights` has it; what is held out stays as it is.

    Each time has an id of its own.
    """
    row = candidate.row
    address = getattr(assignment.data, row.use)[row.address_index]
    weight = assignment.data.weights.get(address, 1.0)
    if weight == 1 or candidate.split not in ("train", "gold"):
        yield candidate
        return

    whole = int(weight)
    is_drawn = uniform(assignment.seed, "weight", candidate.id) < weight - whole
    times = whole + is_drawn
    if times == 0:
        ledger.drop(row.location, "not_drawn")
    for number in range(times):
        yield candidate if number == 0 else replace(candidate, id=f"{candidate.id}-{number}")


def _candidate(table: str, row: Row, assignment: SplitAssignment) -> Candidate:
    row_id = record_id(row.record)
    if table == "pretrain":
        return Candidate(row_id, assignment.split_of_text(row_id), "", row)

    opening = opening_of_row(row)
    split = assignment.split_of(opening)
    if table == "preferences" and split == "train" and assignment.is_gold(opening):
        split = "gold"
    return Candidate(row_id, split, opening, row)


def _drop_reason(candidate: Candidate, *, has_test_file: bool) -> str | None:
    """Why a row has no place in the table; has_test_file: whether its source published one."""
    row = candidate.row
    is_published_test = row.published_split == "test"
    # what stands beside a published test file is there to be trained on
    trains_only = has_test_file and not is_published_test

    if row.use == "evaluation" and trains_only:
        return "published_split_not_used"
    # its opening is trained on, since `evaluation` has no others
    if row.use == "evaluation" and candidate.split != "test":
        return "not_held_out"
    if row.use == "prompts" and is_published_test:
        return "published_split_not_used"
    if candidate.split == "test" and (trains_only or row.use == "prompts"):
        return "opening_in_test"
    return None


def record_id(record: Record) -> str:
    """Hash a record's content; 16 hex digits."""
    # neither kind nor location count: the same content twice is a duplicate
    content: object
    if isinstance(record, PlainText):
        content = record.text
    elif isinstance(record, Solution):
        content = [as_list(record.messages), record.steps, record.labels, record.finished]
    else:
        chosen, rejected = getattr(record, "chosen", ""), getattr(record, "rejected", "")
        content = [as_list(record.messages), chosen, rejected]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def check_limits(limits: Mapping[str, int]) -> None:
    """Refuse limits of tables, splits or kinds that do not exist; raises SettingsError."""
    known = [f"{table}.{split}" for table, splits in SPLITS.items() for split in splits]
    for key in limits:
        table, _, rest = key.partition(".")
        split, dot, kind = rest.partition(".")
        if f"{table}.{split}" not in known or (dot and kind not in KINDS):
            near = get_close_matches(f"{table}.{split}", known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise SettingsError(
                f"data.limits.{key}: unknown; {hint}known: {', '.join(known)}, "
                f"each also with .{', .'.join(KINDS[:3])}"
            )


def opening_of_row(row: Row) -> str:
    """As `opening_of`; "" for plain text."""
    return "" if isinstance(row.record, PlainText) else opening_of(row.record.messages)


def source_of(row: Row) -> SourceKey:
    """The address that a row is from."""
    return row.use, row.address_index


def sources_with(split: str, rows: Iterable[Row]) -> set[SourceKey]:
    """The sources that have a file of a published split."""
    return {source_of(row) for row in rows if row.published_split == split}
