"""What an address holds: its files, the shapes of their rows, what of them can be used, and some rows as the model reads them.

Files, rows and tokens come from the readers of `fetch` and `prepare`; nothing is written.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, zip_longest
from pathlib import Path

from rlhf.commands.data_rows import Passage, RowEncoder, as_messages
from rlhf.commands.data_shares import Shares
from rlhf.common.address import Address, expand_home
from rlhf.common.errors import DataError, RlhfError, SourceError
from rlhf.data.encode import CHUNK, MENDED_BY, EncodedRow
from rlhf.data.ledger import Ledger
from rlhf.data.load import ParsedRow, note_losses, parse_file
from rlhf.data.names import published_split
from rlhf.data.read import file_format
from rlhf.data.records import Dialogue, Pair, PlainText, Prompt, Record, Row, RowLocation, Solution
from rlhf.data.rows import BrokenRow
from rlhf.data.rules import rules_of
from rlhf.data.shapes.table import check_columns
from rlhf.data.sources import FetchRequest, find_source
from rlhf.data.sources.base import FoundData
from rlhf.data.split import record_id
from rlhf.data.uses import USES, addresses
from rlhf.registry import SOURCES
from rlhf.settings import Settings
from rlhf.workspace import Workspace

# How many rows are shown.
SHOWN = 3
# Kinds of sources that have the same files for each list.
_SAME_FOR_ALL = ("path", "hub")
# What a record is called, and the table that it is encoded for.
_RECORDS: Mapping[type[Record], tuple[str, str]] = {
    Dialogue: ("dialogue", "sft"),
    Pair: ("pair", "preferences"),
    Prompt: ("prompt", "prompts"),
    Solution: ("solution", "steps"),
    PlainText: ("plain text", "pretrain"),
}


@dataclass(frozen=True)
class DataFile:
    """A file, by the path that was asked for; fault: why it is not read, or not to its end."""

    name: str
    format: str
    rows: int
    split: str | None = None
    fault: str = ""


@dataclass(frozen=True)
class Dropped:
    """Rows that cannot be used for one reason; example: the first, as file:line."""

    reason: str
    rows: int
    example: str
    hint: str = ""


@dataclass(frozen=True)
class ShownRow:
    """A row as the model reads it; place: file:line."""

    place: str
    shape: str
    passages: tuple[Passage, ...]


@dataclass
class DataReport:
    """All that was found.

    address: as params.yaml takes it
    unread: files that lie beside and are not read
    shapes: rows by what they were recognised as
    listed: the lists of `data` that have the address; where none has it, each is asked alone
    usable: rows that any list keeps; serves: how many each keeps
    lost: rows that a list could have and does not keep, by list and reason
    notes: what happens to rows that stay (prompt_shortened); told: what is not kept as it was written
    unmapped: names in `data.columns` that no row here has
    encoded: whether rows went through the tokens and the template of models/base
    """

    address: str
    files: list[DataFile] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    shapes: dict[str, int] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)
    usable: int = 0
    serves: dict[str, int] = field(default_factory=dict)
    lost: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    unmapped: list[str] = field(default_factory=list)
    encoded: bool = False
    shown: list[ShownRow] = field(default_factory=list)


def inspect_data(text: str, settings: Settings, workspace: Workspace) -> DataReport:
    """Read all of an address, or of the file or directory that `text` names, as `prepare` would.

    Raises SourceError where there are no data, SettingsError for `data.columns` of unknown names.
    """
    check_columns(settings.data.columns)
    address = address_of(text)
    encoder = RowEncoder.load(settings.data, workspace.model("base"))

    with tempfile.TemporaryDirectory() as made:
        # 1. the files
        found, listed = _find(address, settings, workspace, Path(made))
        report = DataReport(
            address, unread=list(found.unread), listed=listed, encoded=encoder is not None
        )
        counts = _Counts(encoder, Shares(settings, listed))

        # 2. their rows, never all of them in memory
        for path in found.files:
            name = _name_of(path, found.base, text, address, workspace)
            report.files.append(_read_file(path, name, found.base, settings, counts))

    # 3. the account
    report.shapes = dict(counts.shapes.most_common())
    kept = counts.shares.kept()
    report.usable, report.serves, report.lost = kept.usable, kept.rows, kept.lost
    for location, reason in kept.unusable:
        counts.ledger.drop(replace(location, use="data"), reason)
    report.dropped = _dropped(counts.ledger)
    report.notes = {note: rows for (_, note), rows in sorted(counts.ledger.notes.items())}
    report.told = counts.ledger.told()
    report.unmapped = [name for name in settings.data.columns if name not in counts.ledger.mapped]
    report.shown = counts.shown()
    return report


def address_of(text: str) -> str:
    """An address as it is; of the name of a file or directory here, the address of it.

    Raises SourceError for what is neither.
    """
    if text.partition(":")[0] in SOURCES:
        return text
    path = expand_home(text)
    if not path.exists():
        known = ", ".join(sorted(SOURCES))
        raise SourceError(f"{text}: neither a file or directory here nor an address (of {known})")
    # a `$` begins a variable
    return f"path:{str(path.absolute()).replace('$', '$$')}"


def _find(
    address: str, settings: Settings, workspace: Workspace, made: Path
) -> tuple[FoundData, list[str]]:
    """Ask the source, for a use that it serves: the first that the settings have it for, if any.

    Gives the lists that have these data, too.
    """
    source, parsed = find_source(address)
    place = _place(address, workspace.root)
    listed = [
        use
        for use in USES
        if place in [_place(one, workspace.root) for one in addresses(settings, use)]
    ]
    first_refusal: SourceError | None = None
    for use in dict.fromkeys([*listed, *USES]):
        request = FetchRequest(parsed, use, workspace.root, settings.seed)
        try:
            source.check_use(request)
            source.check(request)
        except SourceError as refusal:
            first_refusal = first_refusal or refusal
            continue
        # the starter data and the worlds have other files for each
        same = listed if parsed.kind in _SAME_FOR_ALL else [one for one in listed if one == use]
        return source.find_data(request, made), same
    assert first_refusal is not None
    raise first_refusal


def _place(address: str, root: Path) -> str:
    """An address, of a path the same whichever way it is written."""
    parsed = Address.parse(address)
    try:
        return f"path:{_absolute(parsed, root)}" if parsed.kind == "path" else address
    # another address of the settings, which fetch refuses
    except RlhfError:
        return address


def _absolute(address: Address, root: Path) -> Path:
    return Path(os.path.normpath((root / address.path).absolute()))


def _name_of(path: Path, base: Path, text: str, address: str, workspace: Workspace) -> str:
    """What a file is called here: by the path that was asked for, else as the source calls it."""
    parsed = Address.parse(address)
    if parsed.kind != "path":
        return path.relative_to(base).as_posix()
    asked = text if text != address else parsed.detail
    place = _absolute(parsed, workspace.root)
    return os.path.normpath(Path(asked) / path.relative_to(place))


def _read_file(
    path: Path, name: str, base: Path, settings: Settings, counts: "_Counts"
) -> DataFile:
    rules, form, rows = rules_of(settings.data), "", 0
    split = published_split(path.relative_to(base))
    try:
        form = file_format(path)
        parsed = parse_file(path, base, rules)
        while chunk := list(islice(parsed, CHUNK)):
            rows += len(chunk)
            counts.add(replace(row, file=name) for row in chunk)
    except DataError as error:
        return DataFile(name, form, rows, split, str(error))
    return DataFile(name, form, rows, split)


class _Counts:
    """What was found in the rows so far."""

    def __init__(self, encoder: RowEncoder | None, shares: Shares) -> None:
        self.ledger, self.shares = Ledger(), shares
        self.shapes: Counter[str] = Counter()
        self._encoder = encoder
        self._ids: set[str] = set()
        # the first of each shape
        self._shown: dict[str, list[ShownRow]] = {}

    def add(self, parsed_rows: Iterable[ParsedRow]) -> None:
        """Take in rows of one file."""
        # 1. those that can be read
        rows = [found for parsed in parsed_rows if (found := self._read(parsed)) is not None]
        # 2. of these, those that fit the template and the window
        encoded: Sequence[EncodedRow | str | None] = [None] * len(rows)
        if self._encoder is not None:
            encoded = self._encoder([row for row, _ in rows])
        for (row, shape), result in zip(rows, encoded, strict=True):
            if isinstance(result, str):
                self.ledger.drop(_location(row), result, MENDED_BY.get(result, ""))
            else:
                self._keep(row, shape, result)

    def _read(self, parsed_row: ParsedRow) -> tuple[Row, str] | None:
        """A row and its shape; None where it was dropped."""
        file, line = parsed_row.file, parsed_row.line
        parsed, location = parsed_row.content, RowLocation("data", file, line)
        if isinstance(parsed, BrokenRow):
            self.ledger.drop(location, parsed.reason, parsed.detail)
            return None

        record = parsed.record
        name, use = _RECORDS[type(record)]
        shape = f"{name} ({parsed.shape})"
        self.shapes[shape] += 1
        note_losses(parsed, location, self.ledger)
        row = Row(record, parsed.kind, use, 0, file, line, parsed_row.published_split)
        return row, shape

    def _is_known(self, record: Record) -> bool:
        row_id = record_id(record)
        is_known = row_id in self._ids
        self._ids.add(row_id)
        return is_known

    def _keep(self, row: Row, shape: str, result: EncodedRow | None) -> None:
        self.shares.add(row)
        # once for rows that are the same: one stays
        if self._is_known(row.record):
            return
        for note in result.notes if result else ():
            self.ledger.note("data", note)

        shown = self._shown.setdefault(shape, [])
        if len(shown) < SHOWN:
            passages = (
                self._encoder.passages(row, result)
                if self._encoder and result
                else as_messages(row.record)
            )
            shown.append(ShownRow(f"{row.file}:{row.line}", shape, passages))

    def shown(self) -> list[ShownRow]:
        """The first rows, one of each shape before the second of any."""
        rounds = zip_longest(*self._shown.values())
        return [row for rows in rounds for row in rows if row is not None][:SHOWN]


def _location(row: Row) -> RowLocation:
    return RowLocation("data", row.file, row.line)


def _dropped(ledger: Ledger) -> list[Dropped]:
    """By reason over all files, the most frequent first."""
    rows: Counter[str] = Counter()
    examples: dict[str, str] = {}
    hints: dict[str, str] = {}
    for key, count in ledger.counts.items():
        _, file, reason = key
        rows[reason] += count
        examples.setdefault(reason, f"{file}:{ledger.first_lines[key]}")
        hints.setdefault(reason, ledger.hints.get(key, ""))
    return [
        Dropped(reason, count, examples[reason], hints[reason])
        for reason, count in rows.most_common()
    ]
