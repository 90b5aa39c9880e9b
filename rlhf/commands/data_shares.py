"""What the lists of `data` keep of an address: `prepare` takes duplicates away, what is held out, and what does not fit."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from rlhf.commands.data_rows import table_of
from rlhf.data.assign import assign_splits
from rlhf.data.ledger import UNWANTED, Ledger
from rlhf.data.needed import NEEDED_SPLITS, no_rows_left, use_that_fills
from rlhf.data.records import Dialogue, Message, PlainText, Record, Row, RowLocation
from rlhf.data.split import Candidate, candidates, record_id
from rlhf.data.tables import SPLITS
from rlhf.data.uses import USES, addresses
from rlhf.settings import Settings

_ALONE = {"validation_fraction": 0.0, "test_fraction": 0.0}


class Loss(NamedTuple):
    """A row that a list does not keep, and why; hint: how to mend it."""

    location: RowLocation
    reason: str
    hint: str = ""


@dataclass(frozen=True)
class Kept:
    """Rows of an address that `prepare` keeps.

    rows: by the list that has them; lost: those that another list keeps, by list and reason
    usable: how many any list keeps
    unusable: the others, with why the first list that could have them does not
    broken: rows that a list drops for a fault of their own
    empty: what `prepare` says of splits that a stage needs and that are left empty
    """

    rows: dict[str, int]
    lost: dict[str, dict[str, int]]
    usable: int
    unusable: list[Loss]
    broken: list[Loss]
    empty: list[str]


class Shares:
    """Splits the rows of one address as `prepare` does, without those of other addresses.

    listed: the lists that have the address: what one holds out the others do not train on. Where none has
        it, each is tried alone.
    Of a row no more is kept than its first message.
    """

    def __init__(self, settings: Settings, listed: Sequence[str]) -> None:
        changes = {} if listed else _ALONE
        self._settings, self.listed = settings, listed
        self._data = settings.data.model_copy(update={"weights": {}, **changes})
        self._rows: dict[str, list[Row]] = {use: [] for use in listed or USES}
        self._unfit: dict[RowLocation, Loss] = {}
        self._not_converted: list[Loss] = []

    @property
    def uses(self) -> tuple[str, ...]:
        """The lists that are asked."""
        return tuple(self._rows)

    def add(self, row: Row) -> None:
        """Take in a row that its list can have."""
        self._rows[row.use].append(replace(row, record=_outline(row.record)))

    def drop_unfit(self, loss: Loss) -> None:
        """A row that was added does not fit the template or the window, as its list would have it."""
        self._unfit[loss.location] = loss

    def drop(self, loss: Loss) -> None:
        """A list cannot have a row; of lists that do not have the address, that is no loss."""
        if self.listed:
            self._not_converted.append(loss)

    def kept(self) -> Kept:
        """What becomes of all rows."""
        account, kept = _Account(), list[Candidate]()
        for loss in self._not_converted:
            account.drop(*loss)
        for rows in self._together():
            assignment = assign_splits(rows, self._data, self._settings.seed)
            for table in SPLITS:
                for candidate in candidates(table, rows, assignment, account):
                    if unfit := self._unfit.get(candidate.row.location):
                        account.drop(*unfit)
                    else:
                        kept.append(candidate)

        places = [candidate.row.location for candidate in kept]
        usable = {(place.file, place.line) for place in places}
        unusable = {
            (loss.location.file, loss.location.line): loss
            for loss in reversed(account.dropped.values())
            if (loss.location.file, loss.location.line) not in usable
        }
        lost: dict[str, Counter[str]] = {use: Counter() for use in USES}
        for loss in account.dropped.values():
            # what no list keeps is told as such
            if (loss.location.file, loss.location.line) in usable:
                lost[loss.location.use][loss.reason] += 1
        rows_kept = Counter(place.use for place in places)
        return Kept(
            {use: rows_kept[use] for use in USES},
            {use: dict(reasons.most_common()) for use, reasons in lost.items() if reasons},
            len(usable),
            list(reversed(unusable.values())),
            [loss for loss in account.dropped.values() if loss.reason not in UNWANTED],
            list(self._empty(kept)),
        )

    def _together(self) -> Iterator[dict[str, list[Row]]]:
        """The rows of all lists, as often as they are split."""
        none: dict[str, list[Row]] = {use: [] for use in USES}
        if self.listed:
            yield none | self._rows
        else:
            yield from (none | {use: rows} for use, rows in self._rows.items())

    def _empty(self, kept: Sequence[Candidate]) -> Iterator[str]:
        """The splits that are needed, have no row, and get none from another address."""
        found = {(table_of(candidate.row.use), candidate.split) for candidate in kept}
        tables = {table for table, _ in found}
        for table, splits in NEEDED_SPLITS.items():
            for split in splits:
                use = use_that_fills(table, split)
                if (table, split) not in found and self._must_fill(use, split):
                    rows = self._rows[use]
                    empty = no_rows_left(table, split, rows, some_kept=table in tables)
                    yield f"data.{use}: {empty}"

    def _must_fill(self, use: str, split: str) -> bool:
        """Whether a split gets its rows from this address alone."""
        if use not in self.listed or len(addresses(self._settings, use)) > 1:
            return False
        if split == "gold":
            return self._data.gold_fraction > 0
        # a single text gives its end to validation
        is_cut = use == "pretrain" and len({row.record for row in self._rows[use]}) == 1
        return not (is_cut and split == "validation" and self._data.validation_fraction)


@dataclass
class _Account(Ledger):
    """Remembers why each row was dropped."""

    dropped: dict[RowLocation, Loss] = field(default_factory=dict)

    def drop(self, location: RowLocation, reason: str, hint: str = "") -> None:
        self.dropped[location] = Loss(location, reason, hint)


def _outline(record: Record) -> Record:
    """What splitting looks at: the opening, and whether two records are the same."""
    row_id = record_id(record)
    if isinstance(record, PlainText):
        return PlainText(row_id)
    opening = next(message for message in record.messages if message.role == "user")
    return Dialogue((opening, Message("assistant", row_id)))
