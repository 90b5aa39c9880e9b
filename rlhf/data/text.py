"""Text files of any encoding and packing, line by line."""

import gzip
import io
import logging
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import cast

import pyarrow

from rlhf.common.errors import DataError
from rlhf.data.files import PACKED_SUFFIXES
from rlhf.data.ledger import REFETCH_HINT
from rlhf.data.rows import UnreadableFile

log = logging.getLogger(__name__)

# What a file begins with tells its encoding; the longest first.
_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"{\x00\x00\x00": "utf-32-le",
    b"[\x00\x00\x00": "utf-32-le",
    b"\x00\x00\x00{": "utf-32-be",
    b"\x00\x00\x00[": "utf-32-be",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"{\x00": "utf-16-le",
    b"[\x00": "utf-16-le",
    b"\x00{": "utf-16-be",
    b"\x00[": "utf-16-be",
}
# What other files begin with, and what to do with them.
_PACKED_OR_TABLES = {
    b"\x1f\x8b": "gzip, whose name must end with .gz",
    b"\x28\xb5\x2f\xfd": "zstd, whose name must end with .zst",
    b"PAR1": "parquet, whose name must end with .parquet",
    b"PK\x03\x04": "zip, or a spreadsheet: unpack it, or save it as CSV",
}
_WHAT_IS_READ = "JSON lines, JSON, CSV and TSV, also packed as .gz or .zst, and parquet"
# Bytes that are no UTF-8 stand in a text as these.
_FOREIGN = re.compile("[\udc80-\udcff]")
NOT_UTF8 = (
    "not_utf8",
    # of Latin-1 every byte is some character: a wrong guess would go unseen
    "`iconv -f CP1252 -t UTF-8 FILE > NEW` mends a file from Windows; others need their own encoding",
)


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[io.TextIOWrapper]:
    """Open a file for reading text; bytes that are no UTF-8 become lone surrogates.

    newline: as of `open`: None reads line ends of any kind as line feeds, "" leaves them

    Raises DataError when the file is cut off, UnreadableFile when it is no text or not packed as its
    name says.
    """
    try:
        with _open_bytes(path) as stream:
            encoding = _encoding(path, stream)
            yield io.TextIOWrapper(
                stream, encoding=encoding, errors="surrogateescape", newline=newline
            )
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise DataError(path, f"cannot be read to its end ({error}); {REFETCH_HINT}") from None


def _open_bytes(path: Path) -> io.BufferedReader:
    name = path.name.lower()
    if name.endswith(".gz"):
        return io.BufferedReader(cast(io.RawIOBase, gzip.open(path, "rb")))
    if name.endswith(".zst"):
        stream = pyarrow.input_stream(str(path), compression="zstd")
        return io.BufferedReader(cast(io.RawIOBase, stream))
    return path.open("rb")


def _encoding(path: Path, stream: io.BufferedReader) -> str:
    start = _first_bytes(path, stream)
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
    if encoding.startswith(("utf-16", "utf-32")):
        _tell_encoding(path, encoding[:6].upper())
    else:
        _check_text(path, start)
    return encoding


@lru_cache(maxsize=1024)
def _tell_encoding(path: Path, name: str) -> None:
    """Once for each file, which may be opened several times."""
    log.warning("%s: %s, not UTF-8; it is read as such", path, name)


def _check_text(path: Path, start: bytes) -> None:
    """Refuse other files than text: all of their lines would be foreign bytes."""
    other = next((told for mark, told in _PACKED_OR_TABLES.items() if start.startswith(mark)), None)
    # no text has this byte, almost every other file has it early
    if other is None and b"\0" in start:
        other = "binary"
    if other is not None:
        raise UnreadableFile(path, f"not text but {other}; what is read: {_WHAT_IS_READ}")


def _first_bytes(path: Path, stream: io.BufferedReader) -> bytes:
    try:
        return stream.peek(4)
    except (OSError, zlib.error) as error:
        is_packed = path.name.lower().endswith(PACKED_SUFFIXES)
        if not is_packed or "Truncated" in str(error):
            raise
        # a file that is packed otherwise fails before its first byte
        problem = f"not packed as its name says ({error}); unpack it by hand, or pack it anew"
        raise UnreadableFile(path, problem) from None


def is_utf8(text: str) -> bool:
    """Whether no byte of a text that `open_text` gave was foreign."""
    return _FOREIGN.search(text) is None
