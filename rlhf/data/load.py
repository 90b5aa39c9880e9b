"""From the raw files of one use to rows of the record that this use needs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from rlhf.common.errors import DataError
from rlhf.common.files import tree_sha256
from rlhf.data.files import data_files
from rlhf.data.ledger import REREAD, Ledger, Place
from rlhf.data.parse import parse_row
from rlhf.data.read import BrokenRow, kind_from_path, published_split, read_rows
from rlhf.data.records import (
    Dialogue,
    Kind,
    Message,
    Pair,
    PlainText,
    Prompt,
    PublishedSplit,
    Record,
    Row,
)


@dataclass(frozen=True)
class _Parsed:
    outcome: tuple[Record, Kind] | BrokenRow
    file: str
    line: int
    published: PublishedSplit


def load_rows(
    directory: Path, use: str, address: int, ledger: Ledger, *, alone: bool = True
) -> Iterator[Row]:
    """Read what `fetch` brought for one address; rows that cannot serve `use` go to the ledger.

    Unless it is `alone`, the address's number stands before the names of its files: two may bring files of one name.

    Raises DataError when there are no files or one is unreadable as a whole.
    """
    if not directory.is_dir():
        raise DataError(directory, "no raw data; run the stage fetch first (dvc repro)")
    for parsed in _parse_directory(_Tree(directory, tree_sha256(directory))):
        file = parsed.file if alone else f"{address}/{parsed.file}"
        place = Place(use, file, parsed.line)
        try:
            if isinstance(parsed.outcome, BrokenRow):
                raise parsed.outcome
            record, kind = parsed.outcome
            yield Row(_FITS[use](record), kind, use, address, file, parsed.line, parsed.published)
        except BrokenRow as broken:
            ledger.drop(place, broken.reason)


@dataclass(frozen=True)
class _Tree:
    """A directory that is the same as another one if its contents are: several uses often share one address."""

    root: Path = field(compare=False)
    digest: str


@lru_cache(maxsize=2)
def _parse_directory(tree: _Tree) -> list[_Parsed]:
    files = data_files(tree.root)
    if not files:
        raise DataError(tree.root, f"no data files; {REREAD}")
    return [parsed for file in files for parsed in _parse_file(file, tree.root)]


def _parse_file(path: Path, directory: Path) -> Iterator[_Parsed]:
    name = path.relative_to(directory)
    kind, published = kind_from_path(name), published_split(name)
    for line, row in read_rows(path):
        try:
            if isinstance(row, BrokenRow):
                raise row
            outcome: tuple[Record, Kind] | BrokenRow = parse_row(row, kind)
        except BrokenRow as broken:
            outcome = broken
        yield _Parsed(outcome, name.as_posix(), line, published)


def as_dialogue(record: Record) -> Dialogue:
    """Give a demonstration; of a pair, the chosen answer. Raises BrokenRow."""
    if isinstance(record, Pair):
        return Dialogue((*record.messages, Message("assistant", record.chosen)))
    if isinstance(record, Prompt):
        raise BrokenRow("not_ending_with_assistant")
    if isinstance(record, PlainText):
        raise BrokenRow("not_a_dialogue")
    return record


def as_pair(record: Record) -> Pair:
    """Give a pair; raises BrokenRow."""
    if not isinstance(record, Pair):
        raise BrokenRow("not_a_pair")
    return record


def as_prompt(record: Record) -> Prompt:
    """Give the messages before the (last) answer; raises BrokenRow."""
    if isinstance(record, PlainText):
        raise BrokenRow("not_a_prompt")
    return Prompt(record.messages[:-1] if isinstance(record, Dialogue) else record.messages)


def as_text(record: Record) -> PlainText:
    """Give plain text; raises BrokenRow."""
    if not isinstance(record, PlainText):
        raise BrokenRow("not_plain_text")
    return record


_FITS: dict[str, Callable[[Record], Record]] = {
    "sft": as_dialogue,
    "preferences": as_pair,
    "prompts": as_prompt,
    "evaluation": as_prompt,
    "pretrain": as_text,
}
