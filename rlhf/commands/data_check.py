"""What an address holds: its files, the shapes of their rows, what of them can be used, and some rows as the model reads them.

Files, rows and tokens come from the readers of `fetch` and `prepare`; nothing is written.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from rlhf.commands.data_counts import Counts, ShownRow
from rlhf.commands.data_rows import RowEncoder
from rlhf.commands.data_shares import Shares
from rlhf.common.address import Address, expand_home
from rlhf.common.errors import DataError, RlhfError, SourceError
from rlhf.data.encode import CHUNK
from rlhf.data.ledger import Ledger
from rlhf.data.load import ParsedRow, parse_file
from rlhf.data.names import published_splits
from rlhf.data.read import file_format
from rlhf.data.records import RowLocation
from rlhf.data.rows import UnreadableFile
from rlhf.data.rules import rules_of
from rlhf.data.shapes.table import check_columns
from rlhf.data.sources import FetchRequest, find_source
from rlhf.data.sources.base import FoundData
from rlhf.data.uses import USES, addresses
from rlhf.registry import SOURCES
from rlhf.settings import Settings
from rlhf.workspace import Workspace

# Kinds of sources that have the same files for each list.
_SAME_FOR_ALL = ("path", "hub")


@dataclass(frozen=True)
class DataFile:
    """A file, by the path that was asked for.

    split: the published ones of its rows; fault: why it is not read, or not to its end
    """

    name: str
    format: str
    rows: int
    split: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Dropped:
    """Rows that cannot be used for one reason; example: the first, as file:line."""

    reason: str
    rows: int
    example: str
    hint: str = ""


@dataclass
class DataReport:
    """All that was found.

    address: as params.yaml takes it
    unread: files that lie beside and are not read
    shapes: rows by what they were recognised as
    listed: the lists of `data` that have the address; where none has it, each is asked alone
    usable: rows that any list keeps; serves: how many each keeps
    lost: rows that a list could have and does not keep, although another does, by list and reason
    notes: what happens to rows that stay (prompt_shortened); rewritten: of those, an example of a text
        that the chat template changes; told: what is not kept as it was written
    unmapped: names in `data.columns` that no row here has
    refused: what `prepare` would stop at
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
    rewritten: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    unmapped: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
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
        counts = Counts(encoder, Shares(settings, listed))

        # 2. their rows, never all of them in memory
        splits = published_splits([path.relative_to(found.base) for path in found.files])
        for path, split in zip(found.files, splits.values(), strict=True):
            name = _name_of(path, found.base, text, address, workspace)
            parsed = parse_file(path, found.base, rules_of(settings.data), split)
            report.files.append(_read_file(path, name, parsed, settings, counts))

    # 3. the account
    report.shapes = dict(counts.shapes.most_common())
    kept = counts.shares.kept()
    report.usable, report.serves, report.lost = kept.usable, kept.rows, kept.lost
    for location, reason, hint in kept.unusable:
        counts.ledger.drop(replace(location, use="data"), reason, hint)
    report.dropped = _dropped(counts.ledger)
    report.notes = {note: rows for (_, note), rows in sorted(counts.ledger.notes.items())}
    report.rewritten = {note: text for (_, note), text in counts.ledger.shown.items()}
    report.told = counts.ledger.told()
    report.unmapped = [name for name in settings.data.columns if name not in counts.ledger.mapped]
    report.refused = [*counts.refused, *kept.empty]
    if settings.data.broken == "refuse":
        report.refused += _refused_rows(
            [*counts.ledger.broken, *(loss[:2] for loss in kept.broken)]
        )
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
    path: Path, name: str, parsed: Iterator[ParsedRow], settings: Settings, counts: Counts
) -> DataFile:
    form, rows = "", 0
    splits: dict[str, None] = {}
    try:
        form = file_format(path)
        while chunk := list(islice(parsed, CHUNK)):
            rows += len(chunk)
            splits |= {row.published_split: None for row in chunk if row.published_split}
            counts.add(replace(row, file=name) for row in chunk)
    except DataError as error:
        # prepare leaves out a file of which no row can be read
        if settings.data.broken == "refuse" or not isinstance(error, UnreadableFile):
            counts.refused.append(f"{name}: not read, or not to its end")
        return DataFile(name, form, rows, ", ".join(splits), str(error))
    return DataFile(name, form, rows, ", ".join(splits))


def _refused_rows(broken: Sequence[tuple[RowLocation, str]]) -> list[str]:
    """What `prepare` says of broken rows under `data.broken: refuse`."""
    places = {(place.file, place.line): (place, reason) for place, reason in reversed(broken)}
    if not places:
        return []
    place, reason = broken[0]
    others = f", and {len(places) - 1:,} more" if len(places) > 1 else ""
    return [f"{place.file}:{place.line}: {reason}{others} (data.broken: drop leaves such rows out)"]


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
