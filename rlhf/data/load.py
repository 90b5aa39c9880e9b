"""From the raw files of one use to rows of the record that this use needs."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from rlhf.common.address import Address
from rlhf.common.errors import DataError
from rlhf.common.files import tree_sha256
from rlhf.data.files import data_files, given_names, is_data_file
from rlhf.data.labels import FileLabels
from rlhf.data.ledger import REFETCH_HINT, Ledger
from rlhf.data.names import kind_from_path, published_splits
from rlhf.data.parse import Parsed, parse_row
from rlhf.data.read import read_rows
from rlhf.data.records import (
    Dialogue,
    Message,
    Pair,
    PlainText,
    Prompt,
    PublishedSplit,
    Record,
    Row,
    RowLocation,
    Solution,
)
from rlhf.data.references import read_reference
from rlhf.data.rows import BrokenRow, UnreadableFile
from rlhf.data.rules import AS_PUBLISHED, Rules

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParsedRow:
    """A row of a file, before it is known what it is for."""

    content: Parsed | BrokenRow
    file: str
    line: int
    published_split: PublishedSplit


def load_rows(
    directory: Path,
    use: str,
    address_index: int,
    ledger: Ledger,
    address: str = "",
    *,
    only_address: bool = True,
    rules: Rules = AS_PUBLISHED,
) -> Iterator[Row]:
    """Read what `fetch` wrote for one address; rows that cannot serve `use` go to the ledger.

    address: what the settings call it; messages name its files by that
    only_address: whether the use has no other one. If it has, the index of the address stands
        before the names of its files, since files of two addresses may have the same name.

    Raises DataError when there are no files or one is unreadable as a whole.
    """
    if not directory.is_dir():
        raise DataError(directory, "no raw data; run the stage fetch first (dvc repro)")

    convert = CONVERSIONS[use]
    prefix = "" if only_address else f"{address_index}/"
    parsed_files = _parse_directory(_HashedDirectory(directory, tree_sha256(directory)), rules)
    for name, problem in parsed_files.unreadable.items():
        ledger.names[use, f"{prefix}{name}"] = name_of(address, name, only=only_address)
        ledger.leave_file(use, f"{prefix}{name}", problem)
        shown = ledger.name(use, f"{prefix}{name}")
        log.warning("data.%s: %s is not read: %s", use, shown, problem)
    for row in parsed_files.rows:
        file = f"{prefix}{row.file}"
        ledger.names[use, file] = name_of(address, row.file, only=only_address)
        location = RowLocation(use, file, row.line)
        ledger.mapped |= row.content.mapped
        try:
            parsed = _unbroken(row)
            record = record_for(parsed, convert)
        except BrokenRow as broken:
            ledger.drop(location, broken.reason, broken.detail)
            continue

        note_losses(parsed, location, ledger)
        yield Row(record, parsed.kind, use, address_index, file, row.line, row.published_split)


def name_of(address: str, file: str, *, only: bool) -> str:
    """What people call a file below the directory of an address.

    Of a path, by that path: `fetch` puts the name that it gives a directory before those of its files. Of
    other addresses, behind the address where there are several.
    """
    parsed = Address.parse(address)
    if parsed.kind != "path":
        return file if only else f"{address}/{file}"
    given, (_, _, below) = Path(parsed.detail), file.partition("/")
    # an address may name one file
    if is_data_file(given) and (below or file) == given.name:
        return parsed.detail
    has_name = below and given_names(parsed.detail)
    return os.path.normpath(given / (below if has_name else file))


def note_losses(parsed: Parsed, location: RowLocation, ledger: Ledger) -> None:
    """Enter what a row lost on the way."""
    for change in parsed.changes:
        ledger.change(location, change.name, change.before, change.after)
    ledger.leave_unread(location, parsed.unread)


def _unbroken(row: ParsedRow) -> Parsed:
    if isinstance(row.content, BrokenRow):
        raise row.content
    return row.content


def record_for(parsed: Parsed, convert: Callable[[Record], Record]) -> Record:
    """The record as its use needs it; a prompt with its reference answer."""
    try:
        record = convert(parsed.record)
    except BrokenRow as broken:
        # what is missing may stand in a column of another name
        texts = ", ".join(parsed.unread_texts)
        hint = f"what is missing may stand in a column that is not read: {texts}" if texts else ""
        raise BrokenRow(broken.reason, hint) from None
    if isinstance(record, Prompt):
        return replace(record, reference=read_reference(parsed.reference))
    return record


@dataclass(frozen=True)
class _HashedDirectory:
    """A directory that equals another one if its contents do.

    Several uses often share one address; its files are then parsed once.
    """

    root: Path = field(compare=False)
    sha256: str


@dataclass(frozen=True)
class _ParsedDirectory:
    """The rows of all files; of those of which none can be read, what is wrong, by name."""

    rows: list[ParsedRow]
    unreadable: dict[str, str]


# No more than two, since all rows of a directory are held in memory.
@lru_cache(maxsize=2)
def _parse_directory(directory: _HashedDirectory, rules: Rules) -> _ParsedDirectory:
    files = data_files(directory.root)
    if not files:
        raise DataError(directory.root, f"no data files; {REFETCH_HINT}")
    parsed = _ParsedDirectory([], {})
    splits = published_splits([file.relative_to(directory.root) for file in files])
    for file, split in zip(files, splits.values(), strict=True):
        try:
            parsed.rows.extend(parse_file(file, directory.root, rules, split))
        except UnreadableFile as fault:
            parsed.unreadable[file.relative_to(directory.root).as_posix()] = fault.problem
            # there are no others
            if len(parsed.unreadable) == len(files):
                raise
    return parsed


def parse_file(
    path: Path, directory: Path, rules: Rules, split: PublishedSplit = None
) -> Iterator[ParsedRow]:
    """Read a file row by row, broken rows too; raises DataError for one unreadable as a whole.

    split: of its rows, where they have none of their own (`published_splits`)
    """
    name = path.relative_to(directory)
    kind = kind_from_path(name)
    labels = FileLabels(path, rules)
    for line, row, own_split in read_rows(path):
        content: Parsed | BrokenRow
        # a broken row is kept as one, since it is dropped once for each use
        try:
            content = (
                row if isinstance(row, BrokenRow) else parse_row(row, kind, labels.rules_for(row))
            )
        except BrokenRow as broken:
            content = broken
        yield ParsedRow(content, name.as_posix(), line, own_split or split)


# -- what the uses make of a record --


def as_dialogue(record: Record) -> Dialogue:
    """A demonstration; of a pair, the chosen answer. Raises BrokenRow."""
    if isinstance(record, Pair):
        return Dialogue((*record.messages, Message("assistant", record.chosen)))
    if isinstance(record, Prompt):
        raise BrokenRow("not_ending_with_assistant")
    if isinstance(record, Solution | PlainText):
        raise BrokenRow("not_a_dialogue")
    return record


def as_pair(record: Record) -> Pair:
    """A pair as it is; raises BrokenRow for any other record."""
    if not isinstance(record, Pair):
        raise BrokenRow("not_a_pair")
    return record


def as_prompt(record: Record) -> Prompt:
    """The messages before the (last) answer; raises BrokenRow."""
    if isinstance(record, PlainText):
        raise BrokenRow("not_a_prompt")
    if isinstance(record, Prompt):
        return record
    if isinstance(record, Dialogue):
        return Prompt(record.messages[:-1])
    return Prompt(record.messages)


def as_text(record: Record) -> PlainText:
    """Plain text as it is; raises BrokenRow for any other record."""
    if not isinstance(record, PlainText):
        raise BrokenRow("not_plain_text")
    return record


def as_solution(record: Record) -> Solution:
    """An answer in steps as it is; raises BrokenRow for any other record."""
    if not isinstance(record, Solution):
        raise BrokenRow("not_a_solution")
    return record


CONVERSIONS: dict[str, Callable[[Record], Record]] = {
    "sft": as_dialogue,
    "preferences": as_pair,
    "prompts": as_prompt,
    "evaluation": as_prompt,
    "pretrain": as_text,
    "steps": as_solution,
}
