"""Reading data files row by row: JSON lines (gzip or not) and parquet."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from rlhf.common.errors import DataError
from rlhf.data.ledger import REFETCH_HINT
from rlhf.data.records import Kind, PublishedSplit

# Half of a surrogate pair: JSON may name one alone, but text may not hold it.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PARQUET_BATCH = 1024


class BrokenRow(Exception):
    """A row that cannot be used; `reason` is one word, the same for all rows with that fault."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | BrokenRow]]:
    """Yield (line, row) of a file, lines from 1; a line that is no JSON object is a BrokenRow.

    Raises DataError when the file as a whole is unreadable (cut-off gzip, no parquet).
    """
    if path.name.endswith(".parquet"):
        yield from _read_parquet(path)
        return

    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rb") as stream:
            for line, text in enumerate(stream, start=1):
                # empty lines are no rows, but they are counted
                if text.strip():
                    yield line, _parse_json(text)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(path, f"cannot be read to its end ({error}); {REFETCH_HINT}") from None


def _parse_json(text: bytes) -> dict[str, Any] | BrokenRow:
    try:
        value = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError:
        return BrokenRow("not_utf8")
    except (json.JSONDecodeError, RecursionError):
        return BrokenRow("not_json")

    if _SURROGATE.search(text) and not _is_unicode(value):
        return BrokenRow("half_a_character")
    return value if isinstance(value, dict) else BrokenRow("not_an_object")


def _is_unicode(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any] | BrokenRow]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            line = 0
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                for row in batch.to_pylist():
                    line += 1
                    yield line, row
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(path, f"not readable as parquet: {error}; {REFETCH_HINT}") from None


def published_split(path: Path) -> PublishedSplit:
    """The split that a file's name shows (train.jsonl.gz, test-00000-of-00001.parquet)."""
    match = re.match(r"(train|test)(?=[-_.])", path.name)
    if match is None:
        return None
    return "train" if match[1] == "train" else "test"


def kind_from_path(path: Path) -> Kind | None:
    """The kind of rows that names in a path show (harmless-base/train.jsonl.gz).

    The name nearest to the file counts.
    """
    for part in reversed(path.parts):
        if "harmless" in part.lower():
            return "harmless"
        if "helpful" in part.lower():
            return "helpful"
    return None
