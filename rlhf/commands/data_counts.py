"""What is found in the rows of an address: shapes, what every list of `data` keeps of them, and some to be shown."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from rlhf.commands.data_rows import Passage, RowEncoder, as_messages, table_of
from rlhf.commands.data_shares import Loss, Shares
from rlhf.data.encode import MENDED_BY, EncodedRow
from rlhf.data.ledger import Ledger
from rlhf.data.load import CONVERSIONS, ParsedRow, note_losses, record_for
from rlhf.data.parse import Parsed
from rlhf.data.records import Dialogue, Pair, PlainText, Prompt, Record, Row, RowLocation, Solution
from rlhf.data.rows import BrokenRow
from rlhf.data.split import record_id

# How many rows are shown.
SHOWN = 3
# A row as a list has it, with its tokens once models/base is there.
Fitting = tuple[Row, EncodedRow | None]
# What a record is called, and the table that it is encoded for.
_RECORDS: Mapping[type[Record], tuple[str, str]] = {
    Dialogue: ("dialogue", "sft"),
    Pair: ("pair", "preferences"),
    Prompt: ("prompt", "prompts"),
    Solution: ("solution", "steps"),
    PlainText: ("plain text", "pretrain"),
}


@dataclass(frozen=True)
class ShownRow:
    """A row as the model reads it; place: file:line."""

    place: str
    shape: str
    passages: tuple[Passage, ...]


class Counts:
    """What was found in the rows so far."""

    def __init__(self, encoder: RowEncoder | None, shares: Shares) -> None:
        self.ledger, self.shares = Ledger(), shares
        self.shapes: Counter[str] = Counter()
        # files that stop `prepare`
        self.refused: list[str] = []
        self._encoder = encoder
        self._ids: set[str] = set()
        # the first of each shape
        self._shown: dict[str, list[ShownRow]] = {}

    def add(self, parsed_rows: Iterable[ParsedRow]) -> None:
        """Take in rows of one file."""
        # 1. those that can be read
        found = [read for parsed in parsed_rows if (read := self._read(parsed)) is not None]
        # 2. each as every list would have it
        wanted = [row for own, parsed, _ in found for row in self._as_listed(own, parsed)]
        encoded: Sequence[EncodedRow | str | None] = [None] * len(wanted)
        if self._encoder is not None:
            encoded = self._encoder(wanted)
        fitting: defaultdict[int, dict[str, Fitting]] = defaultdict(dict)
        for row, result in zip(wanted, encoded, strict=True):
            self.shares.add(row)
            if isinstance(result, str):
                self.shares.drop_unfit(Loss(row.location, result, MENDED_BY.get(result, "")))
            else:
                fitting[row.line][table_of(row.use)] = row, result
        # 3. some are shown, of those that fit some list or are for none
        tried = {row.line for row in wanted}
        for own, _, shape in found:
            if own.line in fitting or own.line not in tried:
                self._show(own, shape, fitting.get(own.line, {}))

    def _read(self, parsed_row: ParsedRow) -> tuple[Row, Parsed, str] | None:
        """A row, what it was parsed to and its shape; None where it was dropped."""
        file, line = parsed_row.file, parsed_row.line
        parsed, location = parsed_row.content, RowLocation("data", file, line)
        self.ledger.mapped |= parsed.mapped
        if isinstance(parsed, BrokenRow):
            self.ledger.drop(location, parsed.reason, parsed.detail)
            return None

        record = parsed.record
        name, use = _RECORDS[type(record)]
        shape = f"{name} ({parsed.shape})"
        self.shapes[shape] += 1
        note_losses(parsed, location, self.ledger)
        row = Row(record, parsed.kind, use, 0, file, line, parsed_row.published_split)
        return row, parsed, shape

    def _as_listed(self, own: Row, parsed: Parsed) -> Iterator[Row]:
        for use in self.shares.uses:
            row = replace(own, use=use)
            try:
                yield replace(row, record=record_for(parsed, CONVERSIONS[use]))
            except BrokenRow as broken:
                self.shares.drop(Loss(row.location, broken.reason, broken.detail))

    def _is_known(self, record: Record) -> bool:
        row_id = record_id(record)
        is_known = row_id in self._ids
        self._ids.add(row_id)
        return is_known

    def _show(self, own: Row, shape: str, fitting: Mapping[str, Fitting]) -> None:
        """Count what happens to a row, and show it if it is among the first.

        fitting: by table, the row as lists have it
        """
        # as its own table has it, else as the first that has it
        row, result = fitting.get(own.use) or next(iter(fitting.values()), (own, None))
        # once for rows that are the same: one stays
        if self._is_known(own.record):
            return
        for note, example in (result.notes if result else {}).items():
            self.ledger.note("data", note)
            if example:
                self.ledger.show(RowLocation("data", own.file, own.line), note, example)

        shown = self._shown.setdefault(shape, [])
        if len(shown) < SHOWN:
            passages = (
                self._encoder.passages(row, result)
                if self._encoder and result
                else as_messages(own.record)
            )
            shown.append(ShownRow(f"{row.file}:{row.line}", shape, passages))

    def shown(self) -> list[ShownRow]:
        """The first rows, one of each shape before the second of any."""
        rounds = zip_longest(*self._shown.values())
        return [row for rows in rounds for row in rows if row is not None][:SHOWN]
