"""What the lists of `data` keep of an address: `prepare` takes duplicates away, and what is held out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from rlhf.data.assign import assign_splits
from rlhf.data.ledger import Ledger
from rlhf.data.load import CONVERSIONS
from rlhf.data.records import Dialogue, Message, PlainText, Record, Row, RowLocation
from rlhf.data.rows import BrokenRow
from rlhf.data.split import candidates, record_id
from rlhf.data.tables import SPLITS
from rlhf.data.uses import USES
from rlhf.settings import Settings

_ALONE = {"validation_fraction": 0.0, "test_fraction": 0.0}


@dataclass(frozen=True)
class Kept:
    """Rows of an address that `prepare` keeps.

    rows: by the list that has them; lost: by list and reason
    usable: how many any list keeps
    unusable: the others, with why the first list that could have them does not
    """

    rows: dict[str, int]
    lost: dict[str, dict[str, int]]
    usable: int
    unusable: list[tuple[RowLocation, str]]


class Shares:
    """Splits the rows of one address as `prepare` does, without those of other addresses.

    uses: the lists that have the address: what one holds out the others do not train on. Where none has
        it, each is tried alone.
    Of a row no more is kept than its first message.
    """

    def __init__(self, settings: Settings, uses: Sequence[str]) -> None:
        changes = {} if uses else _ALONE
        self._data = settings.data.model_copy(update={"weights": {}, **changes})
        self._seed, self._uses = settings.seed, uses
        self._rows: dict[str, list[Row]] = {use: [] for use in uses or USES}

    def add(self, row: Row) -> None:
        """Take in a row for each list that can have it."""
        for use, rows in self._rows.items():
            try:
                record = CONVERSIONS[use](row.record)
            except BrokenRow:
                continue
            rows.append(replace(row, record=_outline(record), use=use))

    def kept(self) -> Kept:
        """What becomes of all rows."""
        account, kept = _Account(), list[RowLocation]()
        for rows in self._together():
            assignment = assign_splits(rows, self._data, self._seed)
            for table in SPLITS:
                found = candidates(table, rows, assignment, account)
                kept += [candidate.row.location for candidate in found]

        usable = {(place.file, place.line) for place in kept}
        unusable = {
            (place.file, place.line): (place, reason)
            for place, reason in reversed(account.reasons.items())
            if (place.file, place.line) not in usable
        }
        lost: dict[str, Counter[str]] = {use: Counter() for use in USES}
        for place, reason in account.reasons.items():
            lost[place.use][reason] += 1
        rows_kept = Counter(place.use for place in kept)
        return Kept(
            {use: rows_kept[use] for use in USES},
            {use: dict(reasons.most_common()) for use, reasons in lost.items() if reasons},
            len(usable),
            list(reversed(unusable.values())),
        )

    def _together(self) -> Iterator[dict[str, list[Row]]]:
        """The rows of all lists, as often as they are split."""
        none: dict[str, list[Row]] = {use: [] for use in USES}
        if self._uses:
            yield none | self._rows
        else:
            yield from (none | {use: rows} for use, rows in self._rows.items())


@dataclass
class _Account(Ledger):
    """Remembers why each row was dropped."""

    reasons: dict[RowLocation, str] = field(default_factory=dict)

    def drop(self, location: RowLocation, reason: str, hint: str = "") -> None:
        self.reasons[location] = reason


def _outline(record: Record) -> Record:
    """What splitting looks at: the opening, and whether two records are the same."""
    row_id = record_id(record)
    if isinstance(record, PlainText):
        return PlainText(row_id)
    opening = next(message for message in record.messages if message.role == "user")
    return Dialogue((opening, Message("assistant", row_id)))
